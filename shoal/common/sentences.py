"""Sentences as they may be shown: one line, printable, of bounded length. Pure.

A refusal quotes what it refuses, which may be a megabyte of anything; whoever reads it sits at
a terminal, and gRPC drops a call whose trailing metadata are longer than 16 KiB. Used where
errors leave us: `engine_http.failures` and `rpc`.
"""

LONGEST = 2_000
_EACH_SIDE = 400
_WRITTEN = {"\n": "\\n", "\r": "\\r", "\t": "\\t"}


def presentable(sentence: str) -> str:
    r"""The sentence without control characters; of a very long one, its beginning and its end.

    >>> presentable("network a\x1b[2Jb not found")
    'network a\\x1b[2Jb not found'
    """
    text = bounded(sentence.strip())
    if text.isprintable():
        return text
    return "".join(each if each.isprintable() else _written(each) for each in text)


def bounded(sentence: str) -> str:
    """The sentence; of a very long one, its beginning and its end."""
    if len(sentence) <= LONGEST:
        return sentence
    return f"{sentence[:_EACH_SIDE]} [...] {sentence[-_EACH_SIDE:]}"


def _written(character: str) -> str:
    found = _WRITTEN.get(character)
    if found is not None:
        return found
    number = ord(character)
    return f"\\x{number:02x}" if number < 0x100 else f"\\u{number:04x}"
