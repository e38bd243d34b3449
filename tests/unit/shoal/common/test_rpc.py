"""Calls over loopback with mutual TLS: errors, who may call what, how streams end."""

import asyncio
import inspect
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from datetime import timedelta
from typing import Any

import grpc
import grpc.aio
import pytest

from shoal.common.certificates import Peer, Role
from shoal.common.identity import Identity
from shoal.common.rpc import (
    CLASS_OF,
    CODE_OF,
    EVERY_ROLE,
    MANAGERS,
    Admit,
    bind,
    channel,
    from_status,
    server,
    unary,
)
from shoal.model import errors
from shoal.model.errors import (
    ClusterError,
    Conflict,
    Internal,
    InvalidArgument,
    PermissionDenied,
    Unauthenticated,
    Unavailable,
    Unimplemented,
)
from tests.unit.shoal.common.trusted import FixedClock, Trust

ACCESS = {
    "/test.Door/Say": EVERY_ROLE,
    "/test.Door/Talk": EVERY_ROLE,
    "/test.Door/Yield": EVERY_ROLE,
    "/test.Door/Rule": MANAGERS,
}
KINDS = [
    kind
    for _, kind in inspect.getmembers(errors, inspect.isclass)
    if issubclass(kind, ClusterError)
]


def error_of(kind: type[ClusterError]) -> ClusterError:
    sentence = 'no node "ü" here: 100 % of\nthem are down'
    if issubclass(kind, InvalidArgument):
        return kind(sentence, field="TaskTemplate.Größe[0]")
    if issubclass(kind, Unavailable):
        return kind(sentence, retry_after=1.5)
    return kind(sentence)


def same(one: ClusterError, other: ClusterError) -> bool:
    return type(one) is type(other) and str(one) == str(other) and vars(one) == vars(other)


class Door:
    """Handlers that echo, raise what the test wants, and tell how they ended."""

    def __init__(self) -> None:
        self.error: Exception | None = None
        self.entered = asyncio.Event()
        self.ended = asyncio.Event()

    async def say(self, request: bytes, _context: object) -> bytes:
        self.entered.set()
        if self.error is not None:
            raise self.error
        return request

    async def talk(self, requests: AsyncIterator[bytes], context: Any) -> None:
        """As the dispatcher does: reads and writes in a group of its own."""
        self.entered.set()
        try:
            async with asyncio.TaskGroup() as group:
                group.create_task(self._echo(requests, context))
        finally:
            self.ended.set()

    async def _echo(self, requests: AsyncIterator[bytes], context: Any) -> None:
        async for request in requests:
            await context.write(request)
        if self.error is not None:
            raise self.error

    async def produce(
        self, requests: AsyncIterator[bytes], context: Any
    ) -> AsyncIterator[bytes]:
        self.entered.set()
        try:
            while (request := await context.read()) is not grpc.aio.EOF:
                yield request
            if self.error is not None:
                raise self.error
        finally:
            self.ended.set()

    def handler(self) -> grpc.GenericRpcHandler:
        return grpc.method_handlers_generic_handler(
            "test.Door",
            {
                "Say": grpc.unary_unary_rpc_method_handler(self.say),
                "Rule": grpc.unary_unary_rpc_method_handler(self.say),
                "Unlisted": grpc.unary_unary_rpc_method_handler(self.say),
                "Talk": grpc.stream_stream_rpc_method_handler(self.talk),
                "Yield": grpc.stream_stream_rpc_method_handler(self.produce),
            },
        )


class Lab:
    """A served door and the means to knock at it."""

    def __init__(self, trust: Trust, port: int, door: Door, clock: FixedClock) -> None:
        self.trust = trust
        self.address = f"127.0.0.1:{port}"
        self.door = door
        self.clock = clock

    async def call(
        self, method: str, identity: Identity | None = None, name: str | None = None
    ) -> bytes:
        who = identity or self.trust.identity("n2", Role.WORKER)
        async with channel(self.address, who, name) as connection:
            answer: bytes = await unary(
                connection.unary_unary(f"/test.Door/{method}"), b"hello", seconds=3
            )
            return answer


@asynccontextmanager
async def serving(trust: Trust, admit: Admit | None = None) -> AsyncIterator[Lab]:
    door, clock = Door(), FixedClock(trust.now)
    current = trust.current()
    made = server(current, ACCESS, clock, admit)
    made.add_generic_rpc_handlers((door.handler(),))
    port = bind(made, "127.0.0.1:0", current)
    await made.start()
    try:
        yield Lab(trust, port, door, clock)
    finally:
        await made.stop(0)


@pytest.fixture
async def lab() -> AsyncIterator[Lab]:
    async with serving(Trust()) as made:
        yield made


def test_every_class_and_every_code_is_in_the_tables() -> None:
    assert set(CODE_OF) == set(KINDS)
    assert set(CLASS_OF) == set(grpc.StatusCode)


@pytest.mark.parametrize("kind", KINDS)
async def test_every_error_of_a_call_comes_back_as_itself(
    lab: Lab, kind: type[ClusterError]
) -> None:
    lab.door.error = error_of(kind)
    with pytest.raises(ClusterError) as caught:
        await lab.call("Say")
    assert same(caught.value, error_of(kind))


@pytest.mark.parametrize("method", ["Talk", "Yield"])
@pytest.mark.parametrize("kind", KINDS)
async def test_every_error_of_a_stream_comes_back_as_itself(
    lab: Lab, kind: type[ClusterError], method: str
) -> None:
    lab.door.error = error_of(kind)
    async with channel(lab.address, lab.trust.identity()) as connection:
        call: Any = connection.stream_stream(f"/test.Door/{method}")()
        await call.write(b"one")
        assert await call.read() == b"one"
        await call.done_writing()
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await call.read()
    assert same(from_status(caught.value), error_of(kind))
    assert lab.door.ended.is_set()


@pytest.mark.parametrize(
    "error", [ZeroDivisionError("secret"), ExceptionGroup("g", [OSError()])]
)
async def test_foreign_errors_stay_inside(lab: Lab, error: Exception) -> None:
    lab.door.error = error
    with pytest.raises(Internal, match=r"/test\.Door/Say failed inside the manager"):
        await lab.call("Say")


async def test_a_mixed_group_counts_as_ours_to_mend(lab: Lab) -> None:
    lab.door.error = ExceptionGroup("g", [Conflict("c"), OSError("o")])
    with pytest.raises(Internal):
        await lab.call("Say")


async def test_a_subclass_from_elsewhere_counts_as_its_ancestor(lab: Lab) -> None:
    class Odd(Conflict):
        pass

    lab.door.error = Odd("odd")
    with pytest.raises(Conflict, match="odd"):
        await lab.call("Say")


async def test_workers_may_call_what_is_theirs_and_nothing_else(lab: Lab) -> None:
    assert await lab.call("Say") == b"hello"
    with pytest.raises(PermissionDenied, match="node n2 is a worker and may not call"):
        await lab.call("Rule")
    assert await lab.call("Rule", lab.trust.identity("n3")) == b"hello"


async def test_a_method_outside_the_table_is_nobodys(lab: Lab) -> None:
    with pytest.raises(PermissionDenied, match=r"may not call /test\.Door/Unlisted"):
        await lab.call("Unlisted", lab.trust.identity("n3"))
    with pytest.raises(Unimplemented):
        await lab.call("Absent", lab.trust.identity("n3"))


async def test_another_clusters_certificate_is_refused(lab: Lab) -> None:
    with pytest.raises(Unavailable):
        await lab.call("Say", Trust("c2").identity())
    assert not lab.door.entered.is_set()


async def test_another_cluster_under_the_same_root_is_refused(lab: Lab) -> None:
    stranger = Trust("c2", lab.trust.authority).identity()
    with pytest.raises(Unavailable):  # by the client: the server's name is not of its cluster
        await lab.call("Say", stranger)
    with pytest.raises(Unauthenticated, match="belongs to cluster c2, not to c1"):
        await lab.call("Say", stranger, "n1")
    assert not lab.door.entered.is_set()


async def test_a_server_that_is_no_manager_is_not_spoken_to(lab: Lab) -> None:
    with pytest.raises(Unavailable):
        await lab.call("Say", name="worker.c1.shoal")
    assert await lab.call("Say", name="n1") == b"hello"


async def test_an_expired_certificate_is_refused(lab: Lab) -> None:
    stale = lab.trust.identity(signed=lab.trust.now - timedelta(hours=2))
    with pytest.raises(Unavailable):
        await lab.call("Say", stale)
    assert not lab.door.entered.is_set()


async def test_a_certificate_that_expires_on_an_open_connection_is_refused(lab: Lab) -> None:
    async with channel(lab.address, lab.trust.identity()) as connection:
        say: Any = connection.unary_unary("/test.Door/Say")
        assert await unary(say, b"hello", seconds=3) == b"hello"
        lab.clock.time += timedelta(hours=2)
        with pytest.raises(Unauthenticated, match="the certificate of node n1 expired"):
            await unary(say, b"hello", seconds=3)


async def test_a_caller_without_a_certificate_is_refused(lab: Lab) -> None:
    credentials = grpc.ssl_channel_credentials(lab.trust.authority.roots_pem)
    options = [("grpc.ssl_target_name_override", "manager.c1.shoal")]
    async with grpc.aio.secure_channel(lab.address, credentials, options) as connection:
        with pytest.raises(Unavailable):
            await unary(connection.unary_unary("/test.Door/Say"), b"hello", seconds=3)
    async with grpc.aio.insecure_channel(lab.address) as connection:
        with pytest.raises(Unavailable):
            await unary(connection.unary_unary("/test.Door/Say"), b"hello", seconds=3)
    assert not lab.door.entered.is_set()


async def test_the_store_may_disown_a_good_certificate() -> None:
    demoted: set[str] = set()

    def admit(peer: Peer) -> None:
        if peer.node_id in demoted:
            raise PermissionDenied(f"node {peer.node_id} is no manager any more")

    async with (
        serving(Trust(), admit) as made,
        channel(made.address, made.trust.identity("n3")) as connection,
    ):
        rule: Any = connection.unary_unary("/test.Door/Rule")
        assert await unary(rule, b"hello", seconds=3) == b"hello"
        demoted.add("n3")
        with pytest.raises(PermissionDenied, match="no manager any more"):
            await unary(rule, b"hello", seconds=3)


@pytest.mark.parametrize("method", ["Talk", "Yield"])
@pytest.mark.parametrize("leave", ["cancel", "close"])
async def test_a_client_that_leaves_ends_the_handler(lab: Lab, method: str, leave: str) -> None:
    async with channel(lab.address, lab.trust.identity()) as connection:
        call: Any = connection.stream_stream(f"/test.Door/{method}")()
        await call.write(b"one")
        assert await call.read() == b"one"
        if leave == "cancel":
            call.cancel()
    async with asyncio.timeout(3):
        await lab.door.ended.wait()


async def test_a_taken_port_is_named() -> None:
    async with serving(Trust()) as made:
        current = made.trust.current()
        other = server(current, ACCESS, made.clock)
        with pytest.raises(Unavailable, match=f"cannot listen on {made.address}"):
            bind(other, made.address, current)
        await other.stop(0)


async def test_a_renewed_certificate_serves_the_next_connection() -> None:
    trust, clock = Trust(), FixedClock()
    current = trust.current()
    made = server(current, ACCESS, clock)
    door = Door()
    made.add_generic_rpc_handlers((door.handler(),))
    lab = Lab(trust, bind(made, "127.0.0.1:0", current), door, clock)
    await made.start()
    try:
        assert await lab.call("Say") == b"hello"
        newer = Trust()  # a rotated root: callers of the old one are refused from now on
        current.replace(newer.identity())
        with pytest.raises(Unavailable):
            await lab.call("Say")
        assert await lab.call("Say", newer.identity("n2")) == b"hello"
    finally:
        await made.stop(0)


async def test_an_unreachable_server_is_unavailable() -> None:
    trust = Trust()
    async with channel("127.0.0.1:1", trust.identity()) as connection:
        with pytest.raises(Unavailable):
            await unary(connection.unary_unary("/test.Door/Say"), b"x", seconds=3)


async def test_the_deadline_reaches_the_caller_as_unavailable(lab: Lab) -> None:
    ended = asyncio.Event()

    async def wait(_request: bytes, _context: object) -> bytes:
        try:
            await asyncio.Event().wait()
        finally:
            ended.set()
        return b""

    handler: Callable[..., Any] = wait
    current = lab.trust.current()
    made = server(current, ACCESS, lab.clock)
    made.add_generic_rpc_handlers(
        (
            grpc.method_handlers_generic_handler(
                "test.Door", {"Say": grpc.unary_unary_rpc_method_handler(handler)}
            ),
        )
    )
    port = bind(made, "127.0.0.1:0", current)
    await made.start()
    try:
        async with channel(f"127.0.0.1:{port}", lab.trust.identity()) as connection:
            with pytest.raises(Unavailable):
                await unary(connection.unary_unary("/test.Door/Say"), b"x", seconds=0.2)
        async with asyncio.timeout(3):
            await ended.wait()
    finally:
        await made.stop(0)
