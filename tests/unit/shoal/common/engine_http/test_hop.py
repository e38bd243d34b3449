"""A client's bytes on a hop, however they are cut."""

from hypothesis import given
from hypothesis import strategies as st

from shoal.common.engine_http.hop import Unpacker, piece


@given(st.lists(st.binary(min_size=1, max_size=50)), st.integers(1, 7))
def test_pieces_come_out_as_they_went_in(said: list[bytes], cut: int) -> None:
    sent = b"".join(piece(data) for data in said) + piece(b"")
    unpacker, heard = Unpacker(), []
    for at in range(0, len(sent), cut):
        heard += list(unpacker.feed(sent[at : at + cut]))
    assert b"".join(heard) == b"".join(said)
    assert heard.count(b"") == 1
    assert heard[-1] == b""
