"""Requests to a unix socket byte by byte, as no client library would send them."""

import contextlib
import json
import socket
from pathlib import Path
from typing import Any

import msgspec

SECONDS = 20.0


class Answer(msgspec.Struct, frozen=True):
    """What came back; status 0 is nothing at all."""

    status: int
    body: bytes

    @property
    def said(self) -> Any:
        return json.loads(self.body) if self.body.strip() else None


def ask(path: Path, method: str, target: str, body: bytes | None = None) -> Answer:
    """One request as it should be, but for what it says."""
    lines = [f"{method} {target} HTTP/1.1", "Host: docker", "Connection: close"]
    if body is not None:
        lines += ["Content-Type: application/json", f"Content-Length: {len(body)}"]
    head = ("\r\n".join(lines) + "\r\n\r\n").encode()
    return raw(path, head + (body or b""))


def raw(path: Path, *pieces: bytes) -> Answer:
    """Whatever those bytes make the server answer, until it closes or says no more."""
    with connected(path) as line:
        with contextlib.suppress(BrokenPipeError, ConnectionResetError):
            for piece in pieces:  # the answer may come, and the end with it, before all is said
                line.sendall(piece)
        return _read(line)


def connected(path: Path) -> socket.socket:
    """A connection on which nothing was said yet."""
    line = socket.socket(socket.AF_UNIX)
    line.settimeout(SECONDS)
    line.connect(str(path))
    return line


def _read(line: socket.socket) -> Answer:
    with line.makefile("rb") as answer:
        try:
            status = int((answer.readline().split() or [b"", b"0"])[1])
            headers = {}
            while (row := answer.readline().strip()) != b"":
                name, _, value = row.partition(b":")
                headers[name.lower()] = value.strip()
            if headers.get(b"transfer-encoding") == b"chunked":
                body = b""
                while size := int(answer.readline() or b"0", 16):
                    body += answer.read(size)
                    answer.readline()
            else:
                length = headers.get(b"content-length")
                body = answer.read(int(length)) if length is not None else b""
        except ConnectionResetError:
            return Answer(0, b"")
    return Answer(status, body)
