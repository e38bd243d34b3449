"""What a refusal quotes may be anything; what is shown is a line for a terminal."""

import pytest

from shoal.common.sentences import LONGEST, bounded, presentable


@pytest.mark.parametrize(
    ("sentence", "shown"),
    [
        ("network web not found\n", "network web not found"),
        ("a\x1b[2Jb", r"a\x1b[2Jb"),
        ("a\nb\tc\0", r"a\nb\tc\x00"),
        ("grüße 🐳", "grüße 🐳"),
        ("\u202egnp.exe", r"\u202egnp.exe"),
        ("\ud800", r"\ud800"),
    ],
)
def test_control_characters_are_written_out(sentence: str, shown: str) -> None:
    assert presentable(sentence) == shown


def test_a_long_sentence_keeps_its_beginning_and_its_end() -> None:
    said = presentable(f"Name: '{'x' * 1_000_000}' is no name")
    assert said.startswith("Name: 'xxx")
    assert said.endswith("xxx' is no name")
    assert len(said) < LONGEST
    assert bounded("x" * LONGEST) == "x" * LONGEST
