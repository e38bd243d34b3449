"""Texts that are no good for anything, and what a refusal must be."""

from typing import Any

LONGEST_SENTENCE = 2_500

BAD_TEXTS = (
    *("x", "-1", "1e400", "NaN", "²", "9" * 26, "9" * 5000, "\0", "a\0b", "\x1b[2J", "\n"),
    *("..", "../../etc/passwd", "%", "{{", "ünï", "[", "(", "a" * 30_000, "-5m", "10y"),
    *("9999-12-31T23:59:59Z", "0001-01-01T00:00:00Z", "1.5.5"),
)
BAD_FILTERS = (
    *("{", "[]", "1", '"x"', "[" * 20_000, '{"a":' * 20_000),
    *(
        '{"nosuch":{"a":true}}',
        '{"nosuch":["a"]}',
        '{"name":"nosuch"}',
        '{"name":{"nosuch":1}}',
    ),
    *('{"name":["(nosuch+)+$"]}', '{"id":["\\u0000"]}', '{"label":["="]}', '{"label":[""]}'),
    *(f'{{"{key}":["x"]}}' for key in ("mode", "role", "membership", "desired-state", "until")),
    *(f'{{"{key}":["nosuch"]}}' for key in ("_up-to-date", "service", "node", "dangling")),
)


def refusal_fault(status: int, answer: Any) -> str:
    """What is wrong with a refusal; nothing where it is a sentence for a person."""
    if not isinstance(answer, dict) or set(answer) != {"message"}:
        return f"{status} without a message: {answer!r:.200}"
    sentence = answer["message"]
    if not isinstance(sentence, str) or not sentence.isprintable() or not sentence.strip():
        return f"{status} is not a line: {sentence!r:.200}"
    if len(sentence) > LONGEST_SENTENCE:
        return f"{status} goes on and on: {sentence!r:.200}"
    if "internal error" in sentence or "Traceback" in sentence:
        return f"{status} is ours: {sentence!r:.200}"
    return ""
