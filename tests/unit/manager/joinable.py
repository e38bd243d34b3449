"""A joining listener on loopback with a backend in memory, for the tests of both its ends."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import timedelta

from manager.ca.authority import Subject
from manager.ca.tokens import TokenPair, new_tokens, role_of_token
from manager.joining import Applicant, JoiningListener, Limits, Signed
from shoal.common.certificates import Role
from shoal.common.entropy import random_bytes
from shoal.common.identity import CurrentIdentity
from shoal.common.supervise import stoppable_group
from shoal.model.ids import NodeID
from tests.unit.shoal.common.trusted import FixedClock, Trust


class FakeBackend:
    """Implements `JoiningBackend`; remembers who came."""

    def __init__(self, trust: Trust) -> None:
        self.trust = trust
        self.tokens: TokenPair = new_tokens(trust.authority.root, random_bytes)
        self.roots = trust.authority.roots_pem
        self.told: list[str] = []
        self.nodes: dict[str, Applicant] = {}
        self.error: Exception | None = None

    async def roots_pem(self) -> bytes:
        if self.error is not None:
            raise self.error
        return self.roots

    async def role_of(self, token: str) -> Role:
        self.told.append(token)
        return role_of_token(token, self.tokens)

    async def register(self, applicant: Applicant) -> NodeID:
        self.nodes.setdefault(applicant.key_digest, applicant)
        return NodeID("node" + applicant.key_digest[:8])

    async def sign(self, csr_pem: bytes, node_id: NodeID) -> Signed:
        applicant = next(a for d, a in self.nodes.items() if node_id == "node" + d[:8])
        subject = Subject(
            node_id=node_id,
            role=applicant.role,
            cluster_id=self.trust.cluster_id,
            addresses=(applicant.address,),
        )
        return Signed(
            certificate_pem=self.trust.authority.sign(
                csr_pem, subject, self.trust.now, timedelta(hours=1)
            ),
            roots_pem=self.trust.authority.roots_pem,
            managers=("10.0.0.1:2377",),
        )


class Listening:
    """A running listener; `manager` is what a user would type, `port` the listener's own."""

    def __init__(self, backend: FakeBackend, port: int, clock: FixedClock) -> None:
        self.backend = backend
        self.port = port
        self.clock = clock

    @property
    def manager(self) -> str:
        return f"127.0.0.1:{self.port - 1}"


@asynccontextmanager
async def listening(
    backend: FakeBackend,
    current: CurrentIdentity | None = None,
    limits: Limits | None = None,
) -> AsyncIterator[Listening]:
    clock = FixedClock()
    listener = JoiningListener(backend, current or backend.trust.current(), clock, limits)
    opened: asyncio.Future[int] = asyncio.get_running_loop().create_future()
    async with stoppable_group() as group:
        group.start(listener.run("127.0.0.1", 0, opened), name="joining")
        yield Listening(backend, await opened, clock)
        group.stop()
