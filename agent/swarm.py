"""How this host becomes a node and stops being one: init, join, leave, changes of role.

Owns the identity on disk and the one `ClusterAgent` that exists while there is one. It answers
the three calls that need no manager (`POST /swarm/init|join|leave`); everything else of the
cluster half is the manager's (`agent.api.cluster`). Built by `agent.__main__`.
"""

import asyncio
import contextlib
import random
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import grpc.aio
import msgspec
import structlog

from agent.asking import ask_in_turn
from agent.attaching import AttachmentClient, Place, Wish
from agent.local_manager import LocalManager, check_forced
from agent.membership import ClusterAgent
from agent.renewal import CertificateClient
from proto import dispatcher_pb2, dispatcher_pb2_grpc, members_pb2, members_pb2_grpc
from shoal.common.advertise import Wanted, advertised, choose, forget
from shoal.common.certificates import Role, new_key_pem
from shoal.common.clock import Clock
from shoal.common.config import HostConfig
from shoal.common.engine_http.body import decode
from shoal.common.host_client import HostControl
from shoal.common.identity import CurrentIdentity, Identity, IdentityStore
from shoal.common.join_client import Newcomer, join
from shoal.common.key_files import LOCKED, is_locked
from shoal.common.known_managers import load_managers, save_managers
from shoal.common.ports import AGENT_PORT, MANAGER_PORTS, check_free
from shoal.common.renewal import Renewal
from shoal.common.rpc import channel, unary
from shoal.common.supervise import StoppableGroup, stoppable_group
from shoal.model.assignment import Assignments, ManagerAddress
from shoal.model.errors import (
    ClusterError,
    InvalidArgument,
    NotFound,
    PermissionDenied,
    Unavailable,
)
from shoal.model.ids import NodeID, TaskID
from shoal.model.names import Wire
from shoal.model.spec.cluster import InitRequest
from shoal.model.validate.cluster import check_init
from shoal.model.validate.node import check_availability

_log = structlog.get_logger(__name__)

JOIN_SECONDS = 20.0
LEAVE_SECONDS = 10.0
TOLD_SECONDS = 10.0
HEARD_SECONDS = 3.0
ALREADY = (
    'This node is already part of a swarm. Use "docker swarm leave" to leave this swarm and'
    " join another one."
)
NOT_PART = "This node is not part of a swarm"
MANAGER_LEAVES = (
    "You are attempting to leave the swarm on a node that is participating as a manager. "
    "The only way to restore a swarm that has lost consensus is to reinitialize it with "
    "`--force-new-cluster`. Use `--force` to suppress this message."
)
JOIN_TIMEOUT = (
    "Timeout was reached before node joined. The attempt to join the swarm will continue in "
    'the background. Use the "docker info" command to see the current swarm status of your '
    "node."
)


class JoinRequest(Wire, frozen=True, kw_only=True):
    """The body of `POST /swarm/join` (docker-swarm.md 2.2)."""

    listen_addr: str = ""
    advertise_addr: str = ""
    data_path_addr: str = ""
    remote_addrs: tuple[str, ...] = ()
    join_token: str = ""
    availability: str = ""


MakeAgent = Callable[
    [HostConfig, CurrentIdentity, Sequence[ManagerAddress], Callable[[Assignments], None]],
    ClusterAgent,
]


class HostCluster:
    """This host's place in a cluster, or outside of all."""

    def __init__(
        self,
        config: HostConfig,
        host: HostControl | None,
        make: MakeAgent,
        clock: Clock,
        chance: random.Random,
    ) -> None:
        self._plain = config
        self._manager = LocalManager(config, host)
        self._make = make
        self._clock = clock
        self._chance = chance
        self._store = IdentityStore(Path(config.state) / "identity")
        self._agent: ClusterAgent | None = None
        self._attaching: AttachmentClient | None = None
        self._news = asyncio.Event()
        self._current: CurrentIdentity | None = None
        self._renewal: Renewal | None = None
        self._present = asyncio.Event()
        self._gone = asyncio.Event()  # of the present identity
        self._life: StoppableGroup | None = None
        self._ended = asyncio.Event()
        self._removed = ""
        # One of init, join and leave at a time: each changes what the others look at.
        self._turn = asyncio.Lock()

    @property
    def config(self) -> HostConfig:
        """The host's configuration with the addresses it entered its cluster with."""
        return advertised(self._plain)

    @property
    def agent(self) -> ClusterAgent | None:
        """The node's session and tasks, while this host is a node."""
        return self._agent

    @property
    def identity(self) -> CurrentIdentity | None:
        """Who this host is in its cluster."""
        return self._current

    @property
    def removed(self) -> str:
        """Why the cluster does not know this node any more; empty while it does."""
        return self._removed

    async def first_identity(self) -> CurrentIdentity:
        """Wait until this host is a node; who it is then."""
        while self._current is None:
            await self._present.wait()
        return self._current

    async def left(self, current: CurrentIdentity) -> None:
        """Wait until this host is that node no longer."""
        gone = self._gone
        if self._current is current:
            await gone.wait()

    # -- the life of a node

    async def restore(self) -> None:
        """Be who the disk says, and take up the journal. Before the engine adopts."""
        try:
            identity = self._store.load()
        except NotFound:
            return
        self._become(identity, self._entrance(identity))
        if self._agent is not None:
            await self._agent.restore()

    def _entrance(self, identity: Identity) -> Sequence[str]:
        """The managers it came in by, for a host that was told of none before it was killed."""
        known = load_managers(self._plain.state)
        if identity.role is Role.WORKER:
            return known
        return (*known, self.config.manager_address)

    async def run(self) -> None:
        """Be a node whenever there is an identity, until cancelled."""
        while True:
            await self._present.wait()
            await self._live()

    async def _live(self) -> None:
        agent, renewal = self._agent, self._renewal
        if agent is None or renewal is None:
            raise NotFound("no identity to live by")
        try:
            async with stoppable_group() as group:
                self._life = group
                group.start(renewal.run(), name="certificate renewal")
                group.start(self._follow_role(), name="role")
                group.start(agent.run(), name="node")
        except* PermissionDenied as denied:
            self._removed = str(denied.exceptions[0])
            _log.error("the cluster does not know this node any more", reason=self._removed)
            self._present.clear()
            if self._current is not None and self._current.get().role is Role.MANAGER:
                await self._manager.retire()
        finally:
            self._life = None
            self._ended.set()

    def _become(self, identity: Identity, managers: Sequence[str]) -> None:
        current = CurrentIdentity(identity)
        first = [ManagerAddress(node_id=NodeID(""), address=each) for each in managers]
        agent = self._make(self.config, current, first, self._on_told)
        ask = CertificateClient(current, agent.manager_addresses)
        self._attaching = AttachmentClient(current, agent.manager_addresses)
        self._current, self._agent = current, agent
        self._renewal = Renewal(current, self._store, ask.renew, self._clock, self._chance)
        self._removed = ""
        self._gone = asyncio.Event()
        self._ended.clear()
        self._present.set()

    def _on_told(self, told: Assignments) -> None:
        """A certificate of another role or CA than it shall be is fetched anew."""
        news, self._news = self._news, asyncio.Event()
        news.set()
        if self._current is None or self._renewal is None:
            return
        mine = self._current.get()
        if told.role != mine.role.value or told.trust not in ("", mine.trust):
            self._renewal.force()

    async def _follow_role(self) -> None:
        """Have the manager run exactly while the certificate says manager."""
        current = self._current
        if current is None:
            raise NotFound("no identity to follow")
        seen = current.get()
        while True:
            if seen.role is Role.MANAGER:
                known = self._agent.manager_addresses() if self._agent is not None else ()
                await self._manager.start(known)
            else:
                await self._manager.stop()
            seen = await current.changed(seen)

    # -- the three calls

    async def init(self, body: bytes) -> tuple[int, bytes]:
        """Found a cluster here, or force it anew; the answer as (status, JSON)."""
        request = decode(body, InitRequest)
        async with self._turn:
            if request.force_new_cluster and self._current is not None:
                return 200, await self._force_new(request, self._current.get())
            self._must_be_free()
            check_init(request)
            wanted = Wanted(
                listen=request.listen_addr,
                advertise=request.advertise_addr,
                data_path=request.data_path_addr,
            )
            config = await asyncio.to_thread(choose, self._plain, wanted)
            try:
                check_free(config, (*MANAGER_PORTS, AGENT_PORT))
            except ClusterError:
                forget(self._plain)
                raise
            status, answer = await self._manager.found(body)
            if status != 200:
                await self._manager.stop()
                forget(self._plain)
                return status, answer
            news = self._news
            own = (config.manager_address,)
            save_managers(self._plain.state, own)
            self._become(self._store.load(), own)
        await _heard(news)
        return status, answer

    async def _force_new(self, request: InitRequest, me: Identity) -> bytes:
        """Have this host's manager go on alone; its node id, as JSON, when it serves."""
        check_forced(request, me.role, self.config, self._removed)
        await self._manager.force_new()
        return msgspec.json.encode(me.node_id)

    async def join(self, request: JoinRequest) -> None:
        """Become a node of an existing cluster; a manager waits until it serves."""
        async with self._turn:
            self._must_be_free()
            if not request.remote_addrs:
                raise InvalidArgument(
                    "at least 1 RemoteAddr is required to join", field="RemoteAddrs"
                )
            check_availability(request.availability or "active")
            check_free(self._plain, (AGENT_PORT,))
            wanted = Wanted(
                listen=request.listen_addr,
                advertise=request.advertise_addr,
                data_path=request.data_path_addr,
                towards=request.remote_addrs[0],
            )
            config = await asyncio.to_thread(choose, self._plain, wanted)
            newcomer = Newcomer(
                hostname=config.hostname,
                address=config.address,
                availability=request.availability or "active",
            )
            try:
                async with asyncio.timeout(JOIN_SECONDS):
                    joined = await join(
                        request.remote_addrs[0], request.join_token, newcomer, new_key_pem()
                    )
            except TimeoutError as error:
                forget(self._plain)
                raise Unavailable(
                    f"no manager at {request.remote_addrs[0]} answered within "
                    f"{JOIN_SECONDS:.0f} s"
                ) from error
            except ClusterError:
                forget(self._plain)
                raise
            save_managers(self._plain.state, joined.managers)
            await asyncio.to_thread(self._store.save, joined.identity)
            news = self._news
            self._become(joined.identity, joined.managers)
        if joined.identity.role is Role.MANAGER:
            await self._until_manager_serves()
        await _heard(news)

    async def _until_manager_serves(self) -> None:
        try:
            async with asyncio.timeout(JOIN_SECONDS):
                while True:
                    if await self._manager_serves():
                        return
                    await asyncio.sleep(0.1)  # two processes away: no event to wait for
        except TimeoutError as error:
            raise Unavailable(JOIN_TIMEOUT) from error

    async def _manager_serves(self) -> bool:
        try:
            _, writer = await asyncio.open_unix_connection(
                Path(self._plain.run) / "manager.sock"
            )
        except OSError:
            return False
        writer.close()
        return True

    async def leave(self, *, force: bool) -> None:
        """Give the tasks, the identity and the manager of this host up."""
        async with self._turn:
            agent, current = self._agent, self._current
            if agent is None or current is None:
                raise Unavailable(NOT_PART)
            if current.get().role is Role.MANAGER and not self._removed:
                if not force:
                    raise Unavailable(MANAGER_LEAVES)
                await self._leave_managers(agent, current.get())
            self._present.clear()
            if self._life is not None:
                self._life.stop()
                await self._ended.wait()
            if not self._removed:
                await self._say_goodbye(agent, current)
            await self._manager.stop()
            await agent.leave()
            self._agent = self._current = self._renewal = self._attaching = None
            self._gone.set()
            self._removed = ""
            await asyncio.to_thread(self._store.remove)
            forget(self._plain)
            _log.info("left the cluster", node=current.get().node_id)

    async def _leave_managers(self, agent: ClusterAgent, identity: Identity) -> None:
        """Out of the store's members if the others can do without; `--force` goes on anyway."""
        for address in agent.manager_addresses():
            try:
                async with asyncio.timeout(LEAVE_SECONDS), channel(address, identity) as to:
                    await unary(
                        members_pb2_grpc.MembersStub(to).Remove,
                        members_pb2.RemoveRequest(node_id=identity.node_id),
                        seconds=LEAVE_SECONDS,
                    )
            except (ClusterError, TimeoutError) as error:
                _log.warning("still a member of the store", manager=address, reason=str(error))
            else:
                return

    async def _say_goodbye(self, agent: ClusterAgent, current: CurrentIdentity) -> None:
        """So that nobody waits for this node; without it the others wait for a while."""

        async def ask(to: grpc.aio.Channel) -> None:
            stub = dispatcher_pb2_grpc.DispatcherStub(to)
            await unary(stub.Leave, dispatcher_pb2.LeaveRequest(), seconds=LEAVE_SECONDS)

        try:
            async with asyncio.timeout(LEAVE_SECONDS):
                await ask_in_turn(current, agent.manager_addresses(), ask)
        except (ClusterError, TimeoutError) as error:
            _log.warning("the cluster was not told that this node leaves", reason=str(error))

    # -- containers of persons on the cluster's networks

    async def attach_network(self, wish: Wish) -> Place:
        """Have a place for a container on an attachable network, and know it.

        Asked again for the same container and network, even after a restart, the answer is the
        same place. The kernel's part is the engine's: this host has been told of the network.
        Raises what `AttachmentClient.attach` does.
        """
        attaching = self._attaching
        if attaching is None:
            raise NotFound(f"network {wish.network} not found")
        task = await attaching.attach(wish)
        try:
            async with asyncio.timeout(TOLD_SECONDS):
                while (place := self._place(task)) is None:
                    await self._news.wait()
        except TimeoutError as error:
            raise Unavailable(
                f"no manager has told this node of its place on network {wish.network} yet",
                retry_after=1.0,
            ) from error
        return place

    async def detach_network(self, task: TaskID) -> None:
        """Give a container's place back; it has left the network or is gone. Idempotent."""
        if self._attaching is not None:
            await self._attaching.detach(task)

    def places(self) -> dict[TaskID, str]:
        """The places that containers of this host have, and whose they are by container id.

        What is in it and has no container any more is to be detached.
        """
        return {task.id: task.attached for task in self.told().tasks.values() if task.attached}

    def _place(self, task: TaskID) -> Place | None:
        told = self.told()
        found = told.tasks.get(task)
        if found is None or not found.networks:
            return None
        (place,) = found.networks
        network = told.networks.get(place.network_id)
        return Place(task=task, network=network, place=place) if network is not None else None

    def _must_be_free(self) -> None:
        if self._agent is not None:
            raise Unavailable(ALREADY)

    def told(self) -> Assignments:
        """What this node was told last; nothing outside of a cluster."""
        return self._agent.worker.assignments if self._agent is not None else Assignments()

    def section(self) -> dict[str, Any]:
        """The `Swarm` section of `info` as far as this node knows by itself."""
        agent, current = self._agent, self._current
        if agent is None or current is None:
            return {
                "NodeID": "",
                "NodeAddr": "",
                "LocalNodeState": "inactive",
                "ControlAvailable": False,
                "Error": "",
                "RemoteManagers": None,
            }
        state = agent.state()
        manages = current.get().role is Role.MANAGER
        locked = manages and is_locked(self._plain)
        local_state = "locked" if locked else state.local_state
        return {
            "NodeID": state.node_id,
            "NodeAddr": self.config.address,
            "LocalNodeState": "error" if self._removed else local_state,
            "ControlAvailable": manages and not locked,
            "Error": self._removed or (LOCKED if locked else state.error),
            "RemoteManagers": [
                {"NodeID": each.node_id, "Addr": each.address} for each in state.managers
            ],
        }


async def _heard(news: asyncio.Event) -> None:
    """Let the new node be told of its place first: whoever lists the nodes next sees it ready.

    It is a node already; one whose managers are slow goes on in the background.
    """
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(HEARD_SECONDS):
            await news.wait()
