"""The manager process of this host as its agent directs it: found, start, force anew, stop.

The process belongs to the host (`shoal.host`); what it is asked here are the calls that begin
a manager. Everything else of the cluster half is piped to it by `agent.api.cluster`. Used by
`agent.swarm`.
"""

import asyncio
import contextlib
import shutil
from collections.abc import Sequence
from pathlib import Path

import aiohttp

from shoal.common.advertise import DEFAULT_LISTEN
from shoal.common.certificates import Role
from shoal.common.config import HostConfig
from shoal.common.host_client import HostControl
from shoal.common.key_files import LOCKED, is_locked, lock
from shoal.common.known_managers import save_managers
from shoal.common.recovery_order import order_recovery, recovery_done
from shoal.model.defaults import merged_cluster
from shoal.model.errors import FailedPrecondition, InvalidArgument, Unavailable
from shoal.model.spec.cluster import ClusterSpec, InitRequest

FOUND_SECONDS = 60.0
_LOOK = 0.02
WORKER_FORCES = (
    "This node is not a swarm manager: only a manager has the state that a new cluster can be "
    "made of."
)


class LocalManager:
    """This host's manager, running or not."""

    def __init__(self, config: HostConfig, control: HostControl | None) -> None:
        self._config = config
        self._control = control

    @property
    def _host(self) -> HostControl:
        if self._control is None:
            raise FailedPrecondition("this agent runs alone: start it under `shoal host`")
        return self._control

    async def found(self, body: bytes) -> tuple[int, bytes]:
        """Start it in no cluster and have it make one; its answer to `POST /swarm/init`."""
        await self._host.start_manager()
        try:
            async with asyncio.timeout(FOUND_SECONDS):
                return await self._ask("founding.sock", "POST", "/swarm/init", body)
        except TimeoutError as error:
            raise Unavailable("founding the cluster took too long, see the log") from error

    async def force_new(self) -> None:
        """Have it go on as the only one; returns when it serves as such."""
        order_recovery(self._config.state)
        await self._host.stop_manager()
        await self._host.start_manager()
        try:
            async with asyncio.timeout(FOUND_SECONDS):
                await self._ask("manager.sock", "GET", "/internal/info")
        except TimeoutError as error:
            raise Unavailable(
                "forcing the cluster anew takes long and goes on in the background: see "
                "`docker info`, and the host's log for the reason"
            ) from error

    async def start(self, known: Sequence[str]) -> None:
        """Have it run from now on; it asks its way in by the managers known."""
        if known:
            save_managers(self._config.state, known)
        await self._host.start_manager()

    async def retire(self) -> None:
        """Of a node that was removed: its etcd is no member any more. Its data stay.

        They may be the newest there are, if it was a restored cluster that disowned us.
        """
        await self._host.stop_manager()
        await self._host.stop_etcd(purge_state=False)

    async def stop(self) -> None:
        """End it for good: nothing of what it knew stays on this host."""
        await self._host.stop_manager()
        await self._host.stop_etcd(purge_state=True)
        await asyncio.to_thread(_remove_tree, self._config.manager_secrets)
        lock(self._config)
        recovery_done(self._config.state)

    async def _ask(
        self, socket: str, method: str, path: str, body: bytes = b""
    ) -> tuple[int, bytes]:
        """What the manager that was just started answers, once it listens."""
        headers = {"Content-Type": "application/json"}
        while True:
            connector = aiohttp.UnixConnector(str(Path(self._config.run) / socket))
            try:
                async with (
                    aiohttp.ClientSession(connector=connector) as client,
                    client.request(
                        method, f"http://manager{path}", data=body, headers=headers
                    ) as answer,
                ):
                    return answer.status, await answer.read()
            except aiohttp.ClientConnectorError:
                await asyncio.sleep(_LOOK)  # the manager is being forked
            except aiohttp.ClientError as error:
                raise Unavailable(f"the manager ended while it began: {error}") from error


def check_forced(request: InitRequest, role: Role, config: HostConfig, removed: str) -> None:
    """Refuse what `--force-new-cluster` cannot do: it keeps the cluster as it is."""
    if removed:
        raise Unavailable(f"{removed}: leave with `docker swarm leave --force` first")
    if role is not Role.MANAGER:
        raise Unavailable(WORKER_FORCES)
    if is_locked(config):
        raise Unavailable(LOCKED)
    own = (config.address, config.manager_address)
    everywhere = (DEFAULT_LISTEN, f"0.0.0.0:{config.port}")
    refused = {
        "ListenAddr": request.listen_addr not in ("", *everywhere, own[1]),
        "AdvertiseAddr": request.advertise_addr not in ("", *own),
        "DataPathAddr": request.data_path_addr not in ("", config.data_path_address),
        "DataPathPort": request.data_path_port != 0,
        "DefaultAddrPool": bool(request.default_addr_pool),
        "AutoLockManagers": request.auto_lock_managers,
        "Availability": request.availability not in ("", "active"),
        "Spec": merged_cluster(request.spec) != ClusterSpec(),
    }
    for field in (field for field, given in refused.items() if given):
        raise InvalidArgument(
            f"{field}: a cluster that is forced anew keeps its settings and addresses; change "
            f"them afterwards with `docker swarm update` or `docker node update`",
            field=field,
        )


def _remove_tree(directory: Path) -> None:
    with contextlib.suppress(FileNotFoundError):
        shutil.rmtree(directory)
