"""Joining over real HTTPS: who gets in, and which managers are believed."""

import asyncio
import inspect
from collections.abc import Awaitable, Callable
from functools import wraps

import pytest

from manager.ca.tokens import new_tokens
from manager.joining import Limits
from shoal.common.certificates import Role, new_key_pem
from shoal.common.entropy import random_bytes
from shoal.common.identity import CurrentIdentity
from shoal.common.join_client import Newcomer, join
from shoal.common.join_token import JoinToken
from shoal.common.rate_limit import Rate
from shoal.common.tls import joining_context
from shoal.model.errors import (
    Internal,
    InvalidArgument,
    ResourceExhausted,
    Unauthenticated,
    Unavailable,
)
from tests.unit.manager.joinable import FakeBackend, Listening, listening
from tests.unit.shoal.common.trusted import Trust

NEWCOMER = Newcomer(hostname="host2")


Test = Callable[..., Awaitable[None]]


def with_door(test: Test) -> Test:
    """Gives the test a listener, within its own task: a TaskGroup cannot span a fixture."""

    @wraps(test)
    async def run(**given: object) -> None:
        async with asyncio.timeout(20), listening(FakeBackend(Trust())) as door:
            await test(door, **given)

    signature = inspect.signature(test)
    rest = [value for name, value in signature.parameters.items() if name != "door"]
    run.__signature__ = signature.replace(parameters=rest)  # type: ignore[attr-defined]
    return run


@pytest.mark.parametrize("role", Role)
@with_door
async def test_the_token_decides_the_role(door: Listening, role: Role) -> None:
    token = getattr(door.backend.tokens, role.value)
    key_pem = new_key_pem()
    joined = await join(door.manager, str(token), NEWCOMER, key_pem)
    assert (joined.identity.role, joined.identity.cluster_id) == (role, "c1")
    assert joined.identity.key_pem == key_pem
    assert joined.managers == ("10.0.0.1:2377",)
    (applicant,) = door.backend.nodes.values()
    assert (applicant.hostname, applicant.address) == ("host2", "127.0.0.1")
    assert applicant.availability == "active"


@with_door
async def test_what_the_newcomer_says_arrives(door: Listening) -> None:
    said = Newcomer(hostname="host2", address="10.0.0.7", availability="drain")
    await join(door.manager, str(door.backend.tokens.worker), said, new_key_pem())
    (applicant,) = door.backend.nodes.values()
    assert (applicant.address, applicant.availability) == ("10.0.0.7", "drain")


@with_door
async def test_the_same_key_is_the_same_node(door: Listening) -> None:
    token, key_pem = str(door.backend.tokens.worker), new_key_pem()
    first = await join(door.manager, token, NEWCOMER, key_pem)
    again = await join(door.manager, token, NEWCOMER, key_pem)
    other = await join(door.manager, token, NEWCOMER, new_key_pem())
    assert first.identity.node_id == again.identity.node_id != other.identity.node_id


@with_door
async def test_a_wrong_secret_is_refused(door: Listening) -> None:
    wrong = JoinToken(digest=door.backend.tokens.worker.digest, secret="0" * 25)
    with pytest.raises(Unauthenticated, match="A valid join token is necessary"):
        await join(door.manager, str(wrong), NEWCOMER, new_key_pem())
    assert not door.backend.nodes


@with_door
async def test_a_token_of_an_older_rotation_is_refused(door: Listening) -> None:
    older = door.backend.tokens
    door.backend.tokens = new_tokens(door.backend.trust.authority.root, random_bytes)
    with pytest.raises(Unauthenticated, match="A valid join token is necessary"):
        await join(door.manager, str(older.manager), NEWCOMER, new_key_pem())


@with_door
async def test_a_token_for_another_root_is_not_even_sent(door: Listening) -> None:
    wrong = JoinToken(digest="0" * 50, secret=door.backend.tokens.worker.secret)
    with pytest.raises(Unauthenticated, match="remote CA does not match fingerprint"):
        await join(door.manager, str(wrong), NEWCOMER, new_key_pem())
    assert not door.backend.told


@with_door
async def test_an_impostor_with_its_own_root_learns_nothing(door: Listening) -> None:
    token = str(door.backend.tokens.manager)
    async with listening(FakeBackend(Trust())) as impostor:
        with pytest.raises(Unauthenticated, match="does not match fingerprint"):
            await join(impostor.manager, token, NEWCOMER, new_key_pem())
        assert not impostor.backend.told


@with_door
async def test_an_impostor_that_passes_the_true_root_on_learns_nothing(
    door: Listening,
) -> None:
    token = str(door.backend.tokens.manager)
    fake = FakeBackend(Trust())
    fake.roots += door.backend.roots
    async with listening(fake) as impostor:
        with pytest.raises(Unauthenticated, match="cannot prove to be one of the cluster's"):
            await join(impostor.manager, token, NEWCOMER, new_key_pem())
        assert not impostor.backend.told


@with_door
async def test_a_worker_cannot_pose_as_a_manager(door: Listening) -> None:
    token, trust = str(door.backend.tokens.manager), door.backend.trust
    fake = FakeBackend(trust)
    async with listening(fake, trust.current("n9", Role.WORKER)) as impostor:
        with pytest.raises(Unauthenticated, match="Hostname mismatch"):
            await join(impostor.manager, token, NEWCOMER, new_key_pem())
        assert not impostor.backend.told


@with_door
async def test_refusals_come_as_themselves(door: Listening) -> None:
    token = str(door.backend.tokens.worker)
    bad = Newcomer(hostname="host2", address="example.com")
    with pytest.raises(InvalidArgument, match="not an IP address") as caught:
        await join(door.manager, token, bad, new_key_pem())
    assert caught.value.field == "AdvertiseAddr"
    door.backend.error = Unavailable("no quorum", retry_after=2.5)
    with pytest.raises(Unavailable, match="no quorum") as late:
        await join(door.manager, token, NEWCOMER, new_key_pem())
    assert late.value.retry_after == 2.5
    door.backend.error = ZeroDivisionError("secret")
    with pytest.raises(Internal, match="its log says why"):
        await join(door.manager, token, NEWCOMER, new_key_pem())
    with pytest.raises(InvalidArgument, match="SWMTKN-1-"):
        await join(door.manager, "token", NEWCOMER, new_key_pem())


async def test_who_asks_too_often_is_told_when_to_come_back() -> None:
    limits = Limits(rate=Rate(burst=3, per_second=0.1))
    async with listening(FakeBackend(Trust()), limits=limits) as made:
        token = str(made.backend.tokens.worker)
        await join(made.manager, token, NEWCOMER, new_key_pem())
        with pytest.raises(ResourceExhausted, match=r"from 127\.0\.0\.1; try again in 10 s"):
            await join(made.manager, token, NEWCOMER, new_key_pem())
        made.clock.seconds += 20
        await join(made.manager, token, NEWCOMER, new_key_pem())


@with_door
async def test_nobody_there_and_nobody_of_ours(door: Listening) -> None:
    token = str(door.backend.tokens.worker)
    with pytest.raises(Unavailable, match=r"cannot reach the manager at 127\.0\.0\.1:2"):
        await join("127.0.0.1:1", token, NEWCOMER, new_key_pem())

    async def plain(_reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"220 mail.example.com\r\n")
        writer.close()

    async with await asyncio.start_server(plain, "127.0.0.1", 0) as server:
        port = server.sockets[0].getsockname()[1]
        with pytest.raises(Unavailable, match=r"no TLS|cannot reach"):
            await join(f"127.0.0.1:{port - 1}", token, NEWCOMER, new_key_pem())


@pytest.mark.parametrize(
    ("answer", "kind", "sentence"),
    [
        (b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{}", Internal, "unknown form"),
        (b"HTTP/1.1 404 No\r\nContent-Length: 2\r\n\r\nno", Internal, "the joining port"),
        (
            b'HTTP/1.1 200 OK\r\nContent-Length: 13\r\n\r\n{"roots":"x"}',
            Internal,
            "root certificate cannot be read",
        ),
        (b"HTTP/1.1 200 OK\r\n\r\n" + b" " * 300_000, Unavailable, "too long"),
        (
            b"HTTP/1.1 302 Go\r\nLocation: /v1/roots\r\nContent-Length: 0\r\n\r\n",
            Internal,
            "302",
        ),
        (b"", Unavailable, "cannot reach"),
    ],
)
async def test_odd_answers_are_named(
    answer: bytes, kind: type[Exception], sentence: str
) -> None:
    trust = Trust()

    async def speak(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(answer)
        writer.close()

    context = joining_context(CurrentIdentity(trust.identity()))
    async with await asyncio.start_server(speak, "127.0.0.1", 0, ssl=context) as server:
        port = server.sockets[0].getsockname()[1]
        token = new_tokens(trust.authority.root, random_bytes).worker
        with pytest.raises(kind, match=sentence):
            await join(f"127.0.0.1:{port - 1}", str(token), NEWCOMER, new_key_pem())
