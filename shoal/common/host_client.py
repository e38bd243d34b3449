"""The agent's and the manager's side of the control channel, on asyncio.

One request at a time; a caller's deadline is the caller's (`async with asyncio.timeout(...)`),
and a bound of its own keeps a stuck host from holding a child for ever.
"""

import asyncio
import socket
from collections.abc import Sequence

import msgspec

from shoal.common.host_control import (
    MAX_DESCRIPTORS,
    MAX_MESSAGE,
    Call,
    DropDescriptor,
    KeepDescriptor,
    Reply,
    Request,
    StartEtcd,
    StartManager,
    Status,
    StopEtcd,
    StopManager,
    TakeDescriptors,
)
from shoal.model.errors import FailedPrecondition, Unavailable

# Above the host's own bound for ending a child (10 s), so that its answer is heard.
_DEADLINE = 20.0


class HostControl:
    """Asks the host process. Takes over the descriptor that `main(config, control_fd)` got."""

    def __init__(self, control_fd: int) -> None:
        self._socket = socket.socket(fileno=control_fd)
        self._socket.setblocking(False)
        self._turn = asyncio.Lock()
        self._number = 0

    def close(self) -> None:
        self._socket.close()

    async def start_manager(self) -> Reply:
        return await self._ask(StartManager())

    async def stop_manager(self) -> Reply:
        return await self._ask(StopManager())

    async def start_etcd(
        self,
        argv: Sequence[str],
        env: dict[str, str] | None = None,
        once: Sequence[str] = (),
    ) -> Reply:
        """Have etcd run; `once` are flags for this start only. Returns when it was executed."""
        return await self._ask(StartEtcd(tuple(argv), env or {}, tuple(once)))

    async def stop_etcd(self, *, purge_state: bool) -> Reply:
        return await self._ask(StopEtcd(purge_state))

    async def status(self) -> Reply:
        return await self._ask(Status())

    async def keep_descriptor(self, name: str, descriptor: int) -> None:
        """Give the host a copy of a descriptor, under a name that is not empty."""
        await self._ask(KeepDescriptor(name), descriptor)

    async def drop_descriptor(self, name: str) -> None:
        await self._ask(DropDescriptor(name))

    async def take_descriptors(self) -> dict[str, int]:
        """Copies of everything kept, by name; the caller owns and closes them."""
        taken: dict[str, int] = {}
        after = ""
        while True:
            reply, descriptors = await self._exchange(TakeDescriptors(after))
            taken.update(zip(reply.names, descriptors, strict=True))
            if not reply.names:
                return taken
            after = reply.names[-1]

    async def _ask(self, request: Request, descriptor: int | None = None) -> Reply:
        return (await self._exchange(request, descriptor))[0]

    async def _exchange(
        self, request: Request, descriptor: int | None = None
    ) -> tuple[Reply, list[int]]:
        # Held across awaits on purpose: replies carry no address but their order.
        async with self._turn:
            try:
                async with asyncio.timeout(_DEADLINE):
                    reply, descriptors = await self._exchange_now(request, descriptor)
            except TimeoutError as error:
                name = type(request).__name__
                raise Unavailable(f"the host process did not answer {name} in time") from error
            except OSError as error:
                raise Unavailable(f"the host process is gone: {error}") from error
        if reply.error:
            raise FailedPrecondition(reply.error)
        return reply, descriptors

    async def _exchange_now(
        self, request: Request, descriptor: int | None
    ) -> tuple[Reply, list[int]]:
        self._number += 1
        message = msgspec.json.encode(Call(self._number, request))
        if len(message) > MAX_MESSAGE:
            raise FailedPrecondition(
                f"a request of {len(message)} bytes to the host process is over {MAX_MESSAGE}"
            )
        socket.send_fds(self._socket, [message], [] if descriptor is None else [descriptor])
        while True:
            await self._readable()
            data, descriptors, _, _ = socket.recv_fds(
                self._socket, MAX_MESSAGE, MAX_DESCRIPTORS, socket.MSG_CMSG_CLOEXEC
            )
            if not data:
                raise ConnectionResetError("it closed the control channel")
            reply = msgspec.json.decode(data, type=Reply)
            if reply.number == self._number:
                return reply, descriptors
            for late in descriptors:
                socket.close(late)

    async def _readable(self) -> None:
        loop = asyncio.get_running_loop()
        ready = asyncio.Event()
        loop.add_reader(self._socket, ready.set)
        try:
            await ready.wait()
        finally:
            loop.remove_reader(self._socket)
