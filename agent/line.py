"""A session's stream over gRPC: connect, write, read, in our own errors.

The seam between what is said (`agent.session`) and how it travels. `dialled` is the form that a
host uses; the simulation has one of its own.
"""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import grpc
import grpc.aio

from proto import dispatcher_pb2, dispatcher_pb2_grpc
from shoal.common.identity import Identity
from shoal.common.rpc import channel, from_status
from shoal.model.errors import ClusterError, Unavailable

CONNECT_SECONDS = 2.0

Stream = grpc.aio.StreamStreamCall[dispatcher_pb2.AgentMessage, dispatcher_pb2.ManagerMessage]


class GrpcLine:
    """Implements `agent.session.Line` on one call."""

    def __init__(self, stream: Stream) -> None:
        self._stream = stream

    async def write(self, message: dispatcher_pb2.AgentMessage) -> None:
        try:
            await self._stream.write(message)
        except grpc.aio.AioRpcError as error:
            raise from_status(error) from error
        except asyncio.InvalidStateError as error:  # that is how gRPC says that it is over
            raise Unavailable("the manager ended the session") from error

    async def read(self) -> dispatcher_pb2.ManagerMessage:
        try:
            message = await self._stream.read()
        except grpc.aio.AioRpcError as error:
            raise from_status(error) from error
        if not isinstance(message, dispatcher_pb2.ManagerMessage):  # the end of the stream
            raise await self._ending()
        return message

    async def _ending(self) -> ClusterError:
        """Why the manager ended the stream."""
        stream = self._stream
        code, details = await stream.code(), await stream.details()
        if code is grpc.StatusCode.OK:
            return Unavailable("the manager ended the session")
        return from_status(
            grpc.aio.AioRpcError(
                code, await stream.initial_metadata(), await stream.trailing_metadata(), details
            )
        )


@asynccontextmanager
async def dialled(address: str, identity: Identity, patience: float) -> AsyncIterator[GrpcLine]:
    """A stream to the manager at `host:port`; Unavailable if not within so many seconds."""
    async with channel(address, identity) as connection:
        await _connected(connection, min(CONNECT_SECONDS, patience))
        stream: Stream = dispatcher_pb2_grpc.DispatcherStub(connection).Session()
        try:
            yield GrpcLine(stream)
        finally:
            stream.cancel()


async def _connected(connection: grpc.aio.Channel, limit: float) -> None:
    """Wait for the connection; gRPC itself would try a dead address for 20 seconds."""
    try:
        async with asyncio.timeout(limit):
            state = connection.get_state(try_to_connect=True)
            while state is not grpc.ChannelConnectivity.READY:
                if state is grpc.ChannelConnectivity.TRANSIENT_FAILURE:
                    return  # the call says why
                await connection.wait_for_state_change(state)
                state = connection.get_state(try_to_connect=True)
    except TimeoutError as error:
        raise Unavailable(f"no answer within {limit:g} s") from error
