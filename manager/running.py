"""A manager that is in the store: everything it serves, and the order in which it begins.

Agents are served only once memory holds a first list, for an agent must never hear from a
manager that knows nothing. Built by `manager.__main__`; what each part does is told in its own
module.
"""

import asyncio
import random
from pathlib import Path

import structlog

from manager.admission import ACCESS as MEMBERS_ACCESS
from manager.admission import AdmissionService, Roster
from manager.ca.service import ACCESS as CA_ACCESS
from manager.ca.service import CertificateService
from manager.control.attachments import Attachments
from manager.control.credentials import registry_auth_of
from manager.control.payloads import secret_bytes
from manager.control.writing import Writer
from manager.dispatcher.assignments import Confidences
from manager.dispatcher.draining import Draining
from manager.dispatcher.networks import NetworkParts
from manager.dispatcher.presence import Presence
from manager.dispatcher.service import ACCESS as DISPATCHER_ACCESS
from manager.dispatcher.service import Dispatcher
from manager.dispatcher.sessions import Sessions
from manager.dispatcher.status import StatusWriter
from manager.joining import JoiningListener
from manager.leader import Leadership, Leading
from manager.locking import LockFollower
from manager.loops.loop import ControlLoop
from manager.loops.table import TABLE
from manager.member import Membership
from manager.probing import listens, refuses
from manager.roles import Demotions
from manager.root_rotation import RootRotation
from manager.secret_files import ManagerFiles
from manager.sparing import Sparing
from manager.store.barrier import Barrier
from manager.store.commit import Commit
from manager.store.election import Candidate
from manager.store.feed import Feed
from manager.store.kv import KV
from manager.store.memory import Memory
from manager.store.sealing import Sealer
from manager.succession import Succession
from manager.trust import Authorities, CertificateTrust, JoiningTrust
from proto.ca_pb2_grpc import add_CAServicer_to_server
from proto.dispatcher_pb2_grpc import add_DispatcherServicer_to_server
from proto.members_pb2_grpc import add_MembersServicer_to_server
from shoal.common.certificates import Peer, Role
from shoal.common.clock import Clock
from shoal.common.config import HostConfig
from shoal.common.entropy import random_bytes
from shoal.common.identity import CurrentIdentity, IdentityStore
from shoal.common.renewal import follow
from shoal.common.rpc import Access, bind, server
from shoal.common.supervise import Supervisor
from shoal.model.errors import PermissionDenied
from shoal.model.ids import IdSource, NodeID
from shoal.model.states import NodeRole

_log = structlog.get_logger(__name__)

ACCESS: Access = {**CA_ACCESS, **DISPATCHER_ACCESS, **MEMBERS_ACCESS}
STOP_SECONDS = 1.0


class RunningManager:
    """The parts of one manager, built but not started."""

    def __init__(
        self,
        config: HostConfig,
        current: CurrentIdentity,
        store: IdentityStore,
        kv: KV,
        clock: Clock,
        ids: IdSource,
        chance: random.Random,
    ) -> None:
        self._config = config
        self.current = current
        self._store = store
        self._clock = clock
        self._supervisor = Supervisor(clock, chance)
        files = ManagerFiles(config)
        data_key = files.data_key()
        me = Candidate(current.get().node_id, config.manager_address)
        self.kv = kv
        self.memory = Memory()
        self.barrier = Barrier(kv, self.memory.reached)
        self.commit = Commit(kv, self.memory, ids)
        self.sealer = Sealer(data_key)
        self.feed = Feed(kv, self.memory, chance)
        self.authorities = Authorities(self.memory, self.sealer)
        self._lock = LockFollower(self.memory, self.authorities, files, data_key)
        self.membership = Membership(kv, clock)
        self.roster = Roster(self.membership, self.memory, self.commit, self.barrier, clock)
        leading = self._leading(NodeID(me.id), ids)
        self.leadership = Leadership(kv, me, leading.run, listens, chance)
        self._presence = Presence(kv, chance)
        self._sessions = Sessions(
            kv, self.memory, self.barrier, self._presence, NodeID(me.id), clock, ids
        )
        self._statuses = StatusWriter(kv, self.memory)
        parts = NetworkParts()
        self._draining = Draining(
            kv, self.memory, self._sessions, self._presence, parts, NodeID(me.id)
        )
        self._dispatcher = Dispatcher(
            self.memory,
            self._sessions,
            self._statuses,
            self._confidences,
            self._draining,
            parts,
            Attachments(Writer(kv, self.memory, self.barrier, ids), self.memory, clock),
        )
        self._certificates = CertificateService(
            CertificateTrust(self.authorities, self.memory, self.barrier), clock
        )
        self._admission = AdmissionService(
            self.membership, self.roster, self.memory, self.barrier, data_key
        )
        self._joining = JoiningListener(
            JoiningTrust(self.authorities, self.memory, self.commit, self.barrier, clock, ids),
            current,
            clock,
        )

    @property
    def in_store(self) -> bool:
        """Whether the store lets this manager hold its lease."""
        return self._presence.lease is not None

    def _leading(self, me: NodeID, ids: IdSource) -> Leading:
        return Leading(
            self.kv,
            self.memory,
            ids,
            lambda commit: ControlLoop(TABLE, self.memory, commit, self._clock, ids),
            Succession(self.memory, self._clock, me, listens),
            {
                "demotions": Demotions(self.memory, self.roster).run,
                "sparing": Sparing(self.memory, self._clock, self._refuses).run,
                "change of CA": RootRotation(
                    self.memory, self.sealer, self._clock, random_bytes
                ).run,
            },
            self._supervisor,
        )

    async def _refuses(self, host: str) -> bool:
        return await refuses(f"{host}:{self._config.agent_port}")

    async def run(self, ready: asyncio.Event) -> None:
        """Serve until cancelled; `ready` is set once this manager can be asked anything."""
        keep = self._supervisor.keep
        async with asyncio.TaskGroup() as group:
            group.create_task(keep("feed", self.feed.run), name="feed")
            group.create_task(follow(self._store, self.current), name="identity on disk")
            await self.feed.ready()
            group.create_task(keep("lock", self._lock.run), name="lock")
            group.create_task(keep("presence", self._presence.run), name="presence")
            group.create_task(keep("sessions", self._sessions.run), name="sessions")
            group.create_task(keep("statuses", self._statuses.run), name="statuses")
            group.create_task(keep("draining", self._draining.run), name="draining")
            group.create_task(keep("leadership", self.leadership.run), name="leadership")
            group.create_task(keep("agents", self._serve_grpc), name="agents")
            group.create_task(keep("joining", self._serve_joining), name="joining")
            ready.set()

    async def _serve_grpc(self) -> None:
        on = server(self.current, ACCESS, self._clock, self._admit)
        add_DispatcherServicer_to_server(self._dispatcher, on)
        add_CAServicer_to_server(self._certificates, on)
        add_MembersServicer_to_server(self._admission, on)
        at = self._listen_address()
        bind(
            on,
            f"[{at}]:{self._config.port}" if ":" in at else f"{at}:{self._config.port}",
            self.current,
        )
        await on.start()
        try:
            await on.wait_for_termination()
        finally:
            await on.stop(STOP_SECONDS)

    async def _serve_joining(self) -> None:
        await self._joining.run(self._listen_address(), self._config.join_port)

    def _listen_address(self) -> str:
        everywhere = "::" if ":" in self._config.address else "0.0.0.0"  # noqa: S104 - mTLS
        return self._config.listen_address or everywhere

    def _admit(self, peer: Peer) -> None:
        """A manager's certificate is good only while its node is wanted as one.

        Not until it has left the store's members: that takes seconds; demotion acts at once.
        """
        node = self.memory.node(NodeID(peer.node_id))
        if peer.role is not Role.MANAGER or node is None:
            return
        if node.spec.role != NodeRole.MANAGER.value:
            raise PermissionDenied(f"node {peer.node_id} is not a manager any more")

    def _confidences(self) -> Confidences:
        """Registry credentials of services, opened, and what opens secrets."""
        return Confidences(
            {
                service.id: registry_auth_of(self.sealer, service)
                for service in self.memory.services()
                if service.registry_auth
            },
            lambda secret: secret_bytes(self.sealer, secret),
        )


def private_socket(config: HostConfig) -> Path:
    """Where this manager's REST API listens for the agent of its host."""
    return Path(config.run) / "manager.sock"
