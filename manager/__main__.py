"""The manager process: composition root.

On a host that is a manager it enters the store and serves (`manager.running`). On one that is
in no cluster it waits for `swarm init` on a socket that only root opens (`founding.sock`),
founds the cluster and goes on as its first manager. Started and restarted by `shoal.host`.
"""

import asyncio
import random
import signal
from pathlib import Path

import structlog
from aiohttp import web

from manager.api.app import cluster_api
from manager.api.backend import Backend
from manager.control.operations import Chance, Operations
from manager.door import AgentLeaves, Doors
from manager.enrolment import (
    Forgotten,
    RemoteGate,
    enter_store,
    until_forgotten,
)
from manager.founding import Founder
from manager.locking import until_unlocked
from manager.member import Member
from manager.recovering import take_over
from manager.running import RunningManager, private_socket
from manager.secret_files import ManagerFiles
from manager.store.etcd import connect, unix_target
from manager.store.kv import KV
from shoal.common import log
from shoal.common.advertise import advertised
from shoal.common.clock import SystemClock
from shoal.common.config import HostConfig
from shoal.common.engine_http.call import Call
from shoal.common.engine_http.router import Router
from shoal.common.engine_http.server import EngineServer
from shoal.common.entropy import SystemIds, random_bytes
from shoal.common.host_client import HostControl
from shoal.common.identity import CurrentIdentity, Identity, IdentityStore
from shoal.common.known_managers import load_managers
from shoal.common.recovery_order import recovery_done, recovery_ordered
from shoal.model.errors import NotFound, Unavailable
from shoal.model.ids import NodeID
from shoal.model.spec.cluster import InitRequest

_log = structlog.get_logger("manager")


def main(config: HostConfig, control_fd: int) -> None:
    """Run until SIGTERM."""
    log.set_up("manager")
    asyncio.run(_until_told(config, control_fd))


async def _until_told(config: HostConfig, control_fd: int) -> None:
    loop = asyncio.get_running_loop()
    work = asyncio.current_task()
    assert work is not None  # noqa: S101 - a coroutine run by asyncio.run is a task
    loop.add_signal_handler(signal.SIGTERM, work.cancel)
    host = HostControl(control_fd)
    try:
        await Manager(config, host).run()
    except asyncio.CancelledError:
        _log.info("manager stopped")
    finally:
        host.close()


class Manager:
    """The manager of this host, in a cluster or not yet."""

    def __init__(self, config: HostConfig, host: HostControl) -> None:
        self._config = advertised(config)
        self._host = host
        self._clock = SystemClock()
        self._ids = SystemIds()
        self._chance = random.Random()  # noqa: S311 - spreads delays, guards nothing
        self._store = IdentityStore(Path(config.state) / "identity")
        self._ready = asyncio.Event()
        self._manager: RunningManager | None = None

    async def run(self) -> None:
        """Serve until cancelled."""
        private_socket(self._config).unlink(missing_ok=True)
        (Path(self._config.state) / "etcd").mkdir(mode=0o700, parents=True, exist_ok=True)
        async with connect(unix_target(Path(self._config.state) / "etcd")) as kv:
            try:
                identity = self._store.load()
            except NotFound:
                await self._found_and_serve(kv)
            else:
                await until_unlocked(self._config, ManagerFiles(self._config))
                await self._stay(identity, kv, entered=False)

    async def _found_and_serve(self, kv: KV) -> None:
        founded: asyncio.Future[Identity] = asyncio.get_running_loop().create_future()

        async def init(call: Call) -> web.StreamResponse:
            request = await call.body(InitRequest)
            if founded.done():
                raise Unavailable("this host is founding a cluster at this moment")
            founder = Founder(self._config, self._host, self._clock, self._ids)
            identity = await founder.found(request, kv, self._store)
            founded.set_result(identity)
            await self._ready.wait()
            return call.json(identity.node_id)

        router = Router()
        router.add("POST", "/swarm/init", init)
        async with EngineServer(router) as server:
            await server.serve_unix(Path(self._config.run) / "founding.sock", mode=0o600)
            await self._stay(await founded, kv, entered=True)

    async def _stay(self, identity: Identity, kv: KV, *, entered: bool) -> None:
        """Be a manager until cancelled, or until the others have removed this one's member.

        Then its data are dropped and this ends: the host starts the next, which joins anew.
        """
        files = ManagerFiles(self._config)
        member = Member(
            self._config, identity.node_id, identity.cluster_id, files.tls, self._host, kv
        )
        gate = RemoteGate(self._config, identity, load_managers(self._config.state), files)
        try:
            async with asyncio.TaskGroup() as group:
                group.create_task(
                    until_forgotten(member, gate, self._in_store), name="standing"
                )
                if not entered:
                    await self._enter(identity, kv, member, gate)
                await self._serve(identity, kv)
        except* Forgotten as forgotten:
            _log.warning("joining anew", reason=str(forgotten.exceptions[0]))
            await member.stop(purge_state=True)

    def _in_store(self) -> bool:
        return self._manager is not None and self._manager.in_store

    async def _enter(
        self, identity: Identity, kv: KV, member: Member, gate: RemoteGate
    ) -> None:
        """Have this host's etcd run as a voting member, or as the only one if so ordered."""
        if recovery_ordered(self._config.state):
            await take_over(
                member,
                self._config,
                identity.node_id,
                kv,
                self._clock,
                self._ids,
                self._chance,
            )
            recovery_done(self._config.state)
            return
        await enter_store(
            member,
            gate,
            ManagerFiles(self._config),
            lambda sentence: _log.info("waiting", reason=sentence),
        )

    async def _serve(self, identity: Identity, kv: KV) -> None:
        self._manager = manager = RunningManager(
            self._config,
            CurrentIdentity(identity),
            self._store,
            kv,
            self._clock,
            self._ids,
            self._chance,
        )
        serving = asyncio.Event()
        async with asyncio.TaskGroup() as group:
            group.create_task(manager.run(serving), name="running")
            await serving.wait()
            async with EngineServer(cluster_api(self._backend(manager, identity))) as server:
                await server.serve_unix(private_socket(self._config), mode=0o600)
                self._ready.set()
                _log.info("manager serves", node=identity.node_id)
                await asyncio.Event().wait()

    def _backend(self, manager: RunningManager, identity: Identity) -> Backend:
        chance = Chance(self._ids, random_bytes, self._chance)
        operations = Operations(
            identity.node_id,
            manager.kv,
            manager.memory,
            manager.barrier,
            manager.sealer,
            self._clock,
            chance,
        )

        def leader() -> NodeID | None:
            return manager.leadership.leader(manager.memory.epoch)

        doors = Doors(manager.memory, manager.current, self._config.agent_port)
        return Backend(operations, leader, doors, AgentLeaves(), self._clock)
