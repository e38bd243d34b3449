"""What a knock at a port says, and that nobody is woken by it."""

import socket

import pytest

from manager.probing import listens, refuses


@pytest.mark.parametrize(("host", "named"), [("127.0.0.1", "127.0.0.1"), ("::1", "[::1]")])
async def test_a_knock_tells_who_listens_and_does_not_wake_them(host: str, named: str) -> None:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family) as listener:
        listener.setblocking(False)
        listener.bind((host, 0))
        address = f"{named}:{listener.getsockname()[1]}"
        assert not await listens(address)
        assert await refuses(address)
        listener.listen()
        assert await listens(address)
        assert not await refuses(address)
        with pytest.raises(BlockingIOError):
            listener.accept()
