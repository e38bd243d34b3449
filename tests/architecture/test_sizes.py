"""No module over 500 lines, no function over 60 lines of code; docstrings are free."""

import ast
import io
import tokenize
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
MOST_LINES_OF_MODULE = 500
MOST_LINES_OF_FUNCTION = 60
_NOT_CODE = {
    *(tokenize.COMMENT, tokenize.NL, tokenize.NEWLINE, tokenize.INDENT, tokenize.DEDENT),
    *(tokenize.ENCODING, tokenize.ENDMARKER),
}


def modules() -> list[Path]:
    found = []
    for package in ("shoal", "manager", "agent", "proto"):
        found += [p for p in (ROOT / package).rglob("*.py") if "_pb2" not in p.name]
    return sorted(found)


def code_lines(text: str) -> set[int]:
    """Numbers of the lines that hold code: no blank line, no comment, no docstring."""
    lines: set[int] = set()
    for token in tokenize.generate_tokens(io.StringIO(text).readline):
        if token.type not in _NOT_CODE:
            lines.update(range(token.start[0], token.end[0] + 1))
    for node in ast.walk(ast.parse(text)):
        if not isinstance(node, ast.Expr) or not isinstance(node.value, ast.Constant):
            continue
        if isinstance(node.value.value, str):
            lines.difference_update(range(node.lineno, (node.end_lineno or 0) + 1))
    return lines


@pytest.mark.parametrize("path", modules(), ids=lambda p: str(p.relative_to(ROOT)))
def test_sizes(path: Path) -> None:
    text = path.read_text()
    name = path.relative_to(ROOT)
    length = len(text.splitlines())
    assert length <= MOST_LINES_OF_MODULE, f"{name} has {length} lines; give it two duties"
    code = code_lines(text)
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            own = code.intersection(range(node.lineno, (node.end_lineno or 0) + 1))
            assert len(own) <= MOST_LINES_OF_FUNCTION, (
                f"{name}:{node.lineno} {node.name} has {len(own)} lines of code"
            )


def test_the_counting_sees_code_only() -> None:
    text = (
        'def f():\n    """Doc.\n\n    More."""\n    # why\n\n    x = """a\nb"""\n    return x\n'
    )
    assert code_lines(text) == {1, 7, 8, 9}
