"""Between a process's stdio and a taken-over connection: `attach` and `exec`."""

import asyncio

import msgspec

from agent.runtime.runtime import STDOUT, Attachment
from shoal.common.engine_http import frames
from shoal.common.engine_http.hijack import Connection
from shoal.model.errors import ClusterError, InvalidArgument

DETACH_KEYS = "ctrl-p,ctrl-q"


class Wishes(msgspec.Struct, frozen=True, kw_only=True):
    """What the client wants of the stream.

    Attributes:
        detach: the bytes that let go of a terminal.
    """

    terminal: bool
    stdin: bool
    stdout: bool = True
    stderr: bool = True
    detach: bytes = b""


def parse_detach_keys(text: str) -> bytes:
    """`ctrl-p,ctrl-q`, `ctrl-[`, `a` and the like as bytes."""
    keys = bytearray()
    for key in (text or DETACH_KEYS).split(","):
        if len(key) == 1:
            keys += key.encode()
        elif (
            key.startswith("ctrl-")
            and len(key) == 6
            and key[5] in "abcdefghijklmnopqrstuvwxyz@[\\]^_"
        ):
            keys.append(ord(key[5].upper()) & 0x1F)
        else:
            raise InvalidArgument(f"Invalid detach keys ({text}) provided", field="detachKeys")
    return bytes(keys)


async def pump(connection: Connection, attachment: Attachment, wishes: Wishes) -> None:
    """Both directions until the process closes its output, the client leaves or detaches."""
    try:
        async with asyncio.TaskGroup() as group:
            output = group.create_task(_output(connection, attachment, wishes))
            if wishes.stdin:
                feeding = group.create_task(_input(connection, attachment, wishes, output))
                output.add_done_callback(lambda _: feeding.cancel())
    finally:
        await attachment.detach()


async def _output(connection: Connection, attachment: Attachment, wishes: Wishes) -> None:
    try:
        async for stream, data in attachment:
            if wishes.terminal:
                await connection.write(data)
            elif wishes.stdout if stream == STDOUT else wishes.stderr:
                await connection.write(frames.frame(stream, data))
    except ConnectionError:
        return  # the client is gone


async def _input(
    connection: Connection,
    attachment: Attachment,
    wishes: Wishes,
    output: "asyncio.Task[None]",
) -> None:
    keys = wishes.detach if wishes.terminal else b""
    held = b""
    try:
        while data := await connection.read():
            data = held + data
            if keys and keys in data:
                await attachment.write(data[: data.index(keys)])
                output.cancel()
                return
            held = _begun(data, keys)
            await attachment.write(data[: len(data) - len(held)])
        await attachment.close_stdin()
    except (ClusterError, OSError):
        return  # its stdin is closed; what it still says goes on


def _begun(data: bytes, keys: bytes) -> bytes:
    """The end of the data that may be the beginning of the detach keys."""
    for length in range(min(len(keys) - 1, len(data)), 0, -1):
        if data.endswith(keys[:length]):
            return data[-length:]
    return b""
