"""HTTP to agents over their doors: one request a connection, the answer's head, its body.

Written by hand, for what comes back may be a taken-over connection whose bytes belong to the
client. Used by `logs` (reads bodies) and `containers` (passes everything on).
"""

from collections.abc import AsyncIterator, Mapping

from msgspec import Struct

from manager.api.backend import AgentDoor, Line
from shoal.common.engine_http.hop import HOP
from shoal.model.errors import Unavailable
from shoal.model.ids import NodeID

_HEAD_LIMIT = 64 * 1024
_CHUNK = 64 * 1024


class Answer(Struct, frozen=True):
    """The head of an agent's answer, as read and as parsed; names in lower case."""

    status: int
    headers: Mapping[str, str]
    raw: bytes


def request_head(method: str, target: str, headers: Mapping[str, str]) -> bytes:
    """A request's head, marked as passed on."""
    lines = [f"{method} {target} HTTP/1.1", "Host: docker", f"{HOP}: manager"]
    lines += [f"{name}: {value}" for name, value in headers.items()]
    return ("\r\n".join(lines) + "\r\n\r\n").encode("latin-1")


async def read_head(line: Line, node: NodeID) -> Answer:
    """The answer's head; `Unavailable` if what comes is none."""
    try:
        raw = await line.reader.readuntil(b"\r\n\r\n")
        while raw.startswith(b"HTTP/1.1 100 "):
            raw = await line.reader.readuntil(b"\r\n\r\n")
        first, *rest = raw.decode("latin-1").split("\r\n")
        status = int(first.split(" ")[1])
    except (EOFError, OSError, ValueError, IndexError) as error:
        raise Unavailable(f"node {node} closed the connection without an answer") from error
    headers = {}
    for one in rest:
        name, colon, value = one.partition(":")
        if colon:
            headers[name.strip().lower()] = value.strip()
    return Answer(status, headers, raw)


async def read_body(line: Line, answer: Answer) -> AsyncIterator[bytes]:
    """The body's bytes as they come.

    Raises `Unavailable` where it ends before its end.
    """
    try:
        if "chunked" in answer.headers.get("transfer-encoding", "").lower():
            while size := int((await line.reader.readuntil(b"\r\n")).split(b";")[0], 16):
                async for piece in _exactly(line, size):
                    yield piece
                await line.reader.readexactly(2)
        elif "content-length" in answer.headers:
            async for piece in _exactly(line, int(answer.headers["content-length"])):
                yield piece
        else:
            while piece := await line.reader.read(_CHUNK):
                yield piece
    except (EOFError, OSError, ValueError) as error:
        raise Unavailable("the connection to the agent broke") from error


async def _exactly(line: Line, size: int) -> AsyncIterator[bytes]:
    while size:
        piece = await line.reader.read(min(size, _CHUNK))
        if not piece:
            raise EOFError
        size -= len(piece)
        yield piece


async def ask(
    door: AgentDoor, node: NodeID, target: str, limit: int = 1 << 20
) -> tuple[int, bytes]:
    """GET something small: status and body."""
    line = await door.open(node)
    try:
        line.writer.write(request_head("GET", target, {"Connection": "close"}))
        await line.writer.drain()
        answer = await read_head(line, node)
        body = b""
        async for piece in read_body(line, answer):
            body += piece
            if len(body) > limit:
                raise Unavailable(f"node {node} answers more than {limit} bytes")
    except OSError as error:
        raise Unavailable(f"node {node} closed the connection: {error}") from error
    finally:
        line.writer.close()
    return answer.status, body
