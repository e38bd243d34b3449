"""The host's network for its callers: the engine, the task workers, the agent's session.

Blocking kernel work happens in one dedicated thread, in the order of the calls. A call that is
cancelled is still completed there: after a cancelled `attach`, `detach`. Kernel state outlives
this object and the process; the order after a restart is `start`, `set_mesh`, `set_networks`,
`set_ingress` (all from the agent's journal), then `adopt`, which makes it all real and sweeps
what is left, then `reopen` for each container that runs. Before `adopt` nothing that exists is
touched.
"""

import asyncio
import functools
import os
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from ipaddress import IPv4Network
from pathlib import Path
from typing import ParamSpec, TypeVar

import structlog

from agent.network import netns
from agent.network.desired import (
    Attachment,
    ClusterNetworks,
    Endpoint,
    IngressPort,
    Mesh,
    PortBinding,
)
from agent.network.instance import Instance
from agent.network.local import LocalNetwork
from agent.network.naming import Naming
from agent.network.plan import names_for
from agent.network.relay import Relay
from shoal.common.clock import Clock, SystemClock
from shoal.model.errors import ClusterError, FailedPrecondition, Internal
from shoal.model.objects import TakenPort, TunnelKey

_log = structlog.get_logger(__name__)
_COMPARE_SECONDS = 10.0
_DEBOUNCE_SECONDS = 0.2
P = ParamSpec("P")
T = TypeVar("T")


class HostNetwork:
    """Bridges, mesh, published ports and containers' wiring of one host.

    Args:
        prefix: 1 to 6 characters that begin the name of every link of this instance; unique in
            its network namespace.
        local_subnet: of Docker's network `bridge`; its first address is the gateway.
        namespace: the host's network namespace, if it is not that of this process.
        naming: who answers names inside containers; None where nobody does.
        clock: by which keys of encrypted networks grow old.

    Attributes:
        report_changed: called when `tunnel_keys` or `taken_ports` are others than before.
    """

    def __init__(
        self,
        *,
        prefix: str,
        local_subnet: IPv4Network,
        namespace: Path | None = None,
        naming: Naming | None = None,
        clock: Clock | None = None,
    ) -> None:
        self._clock = clock or SystemClock()
        self._changed = asyncio.Event()
        self._keys: tuple[TunnelKey, ...] = ()
        self._taken: tuple[TakenPort, ...] = ()
        self.report_changed: Callable[[], None] | None = None
        self._naming = naming
        self._names = names_for(prefix)
        self._local_subnet = local_subnet
        self._namespace = namespace
        self._executor: ThreadPoolExecutor | None = None
        self._instance: Instance | None = None
        self._network_names: Mapping[str, str] = {}
        self._published: frozenset[str] = frozenset()

    @property
    def network_names(self) -> Mapping[str, str]:
        """The names of the cluster's networks, by id, as managers tell of them."""
        return self._network_names

    def publishes(self, endpoint: Endpoint) -> bool:
        """Whether published ports of the cluster lead to a container."""
        return endpoint.outward.ipv4 in self._published

    @property
    def tunnel_keys(self) -> tuple[TunnelKey, ...]:
        """What other hosts must know to take part in encrypted networks with this one."""
        return self._keys

    @property
    def taken_ports(self) -> tuple[TakenPort, ...]:
        """The cluster's published ports that something else has on this host.

        Each is published here as soon as it is free.
        """
        return self._taken

    async def start(self) -> None:
        """Open; on a clean host also create, else wait for `adopt`. Idempotent."""
        await self._open()
        await self._call(self._running().begin)

    async def stop(self) -> None:
        """Close sockets and descriptors only: containers and rules live on. Idempotent."""
        if self._executor is None:
            return
        if self._instance is not None:
            await self._call(self._instance.close)
        self._instance = None
        self._executor.shutdown()
        self._executor = None

    async def destroy(self) -> None:
        """Remove every kernel object of this instance, started or not, and stop."""
        await self._open()
        await self._call(self._running().destroy)
        await self.stop()

    async def attach(
        self,
        container: str,
        attachments: Sequence[Attachment],
        ports: Sequence[PortBinding] = (),
        name_servers: Sequence[str] = (),
    ) -> Endpoint:
        """Make a container's namespace, join it to networks and publish its ports.

        Its interfaces are `eth0` and so on in the order of the attachments; none at all is a
        container with loopback only. `name_servers` are asked for names that its networks have
        not.

        Raises:
            ResourceExhausted: no address is left.
            FailedPrecondition: a port is taken, or the host has no mesh.
            Unavailable: a cluster network that no manager has told of yet.
            AlreadyExists: the container is attached.
        """
        attach = self._running().attach
        endpoint = await self._call(attach, container, attachments, ports, name_servers)
        try:
            await self._opened(endpoint, endpoint.netns_path)
        except ClusterError:
            await self.detach(container)
            raise
        return endpoint

    async def connect(self, container: str, netns: str, attachment: Attachment) -> Endpoint:
        """Join a running container to one more network; `netns` is its namespace's path.

        Raises:
            NotFound: the container is not attached.
            AlreadyExists: it is on that network.
        """
        endpoint = await self._call(self._running().connect, container, netns, attachment)
        await self._opened(endpoint, netns)
        return endpoint

    async def disconnect(self, container: str, netns: str, network: str) -> Endpoint:
        """Take a running container off a network.

        Raises:
            NotFound: it is not attached, or not on that network.
        """
        endpoint = await self._call(self._running().disconnect, container, netns, network)
        await self._opened(endpoint, netns)
        return endpoint

    async def reopen(self, container: str, netns: str) -> None:
        """After a restart and `adopt`: this container runs, in the namespace of that path."""
        endpoint = await self._call(self._running().endpoint, container)
        if self._naming is not None:
            await self._naming.reopened(endpoint, netns)

    async def release_netns(self, container: str) -> None:
        """Call when the runtime has joined the namespace. Idempotent."""
        await self._call(self._running().release_netns, container)

    async def detach(self, container: str) -> None:
        """Give back address and ports, after the container's last process. Idempotent."""
        if self._naming is not None:
            await self._naming.closed(container)
        await self._call(self._running().detach, container)

    async def adopt(self, endpoints: Sequence[Endpoint]) -> None:
        """After a restart: these are all containers there are. Sweeps anything else of ours."""
        await self._call(self._running().adopt, endpoints)

    async def set_local(self, networks: Sequence[LocalNetwork]) -> None:
        """These are all networks of this host besides `bridge`; said before `adopt` too.

        Raises:
            FailedPrecondition: containers are on one that is to go.
        """
        await self._call(self._running().set_local, tuple(networks))

    async def probe(self, network: LocalNetwork) -> None:
        """Find out whether the kernel can make such a network.

        Raises:
            InvalidArgument, Unimplemented, Conflict: it cannot; the sentence says why.
        """
        await self._call(self._running().probe, network)

    async def used_subnets(self) -> list[str]:
        """The subnets this host has addresses in, or routes to: where no new one may be."""
        return await self._call(self._running().used_subnets)

    async def set_mesh(self, mesh: Mesh | None) -> None:
        """This host's part of the cluster's network; None where it has none (any more).

        Raises:
            FailedPrecondition: another subnet while tasks are attached to the old one.
        """
        await self._call(self._running().set_mesh, mesh)

    async def set_networks(self, networks: ClusterNetworks) -> None:
        """What managers say of the cluster networks; the kernel is so when this returns."""
        self._network_names = {key: each.name for key, each in networks.networks.items()}
        await self._call(self._running().set_networks, networks)
        if self._naming is not None:
            await self._naming.changed(networks)

    async def set_ingress(self, entries: Sequence[IngressPort]) -> None:
        """Replace the complete set of services' published ports, in one transaction.

        One that something else has on this host is among `taken_ports` then.
        """
        self._published = frozenset(b.address for each in entries for b in each.backends)
        await self._call(self._running().set_ingress, entries)

    async def repair(self) -> None:
        """Compare the kernel with what is desired and put right what differs."""
        await self._call(self._running().repair)

    async def rules(self) -> str:
        """Our nftables table as text, for people and tests."""
        return await self._call(self._running().listing)

    async def run(self) -> None:
        """Repair after others' changes and every 10 s, serve `[::1]`; in a TaskGroup."""
        publishing = self._running().publishing
        relay = Relay(publishing.listeners, lambda asked: self._call(publishing.dial, asked))
        async with asyncio.TaskGroup() as group:
            group.create_task(relay.run(), name="relay")
            group.create_task(self._watch(), name="watch")

    async def _watch(self) -> None:
        """While other hosts of encrypted networks are to answer, it looks all the time."""
        loop = asyncio.get_running_loop()
        changed = self._changed
        filenos = self._running().filenos()
        due = loop.time() + _COMPARE_SECONDS
        while True:
            for fileno in filenos:
                loop.add_reader(fileno, _notice, loop, filenos, changed)
            try:
                async with asyncio.timeout_at(due):
                    await changed.wait()
                    await asyncio.sleep(_DEBOUNCE_SECONDS)
            except TimeoutError:
                pass  # time for the periodic compare
            finally:
                for fileno in filenos:
                    loop.remove_reader(fileno)
            changed.clear()
            try:
                if loop.time() < due:
                    await self._call(self._running().noticed)
                    continue
                due = loop.time() + _COMPARE_SECONDS
                await self.repair()
            except ClusterError:
                _log.exception("network repair failed")
                await asyncio.sleep(1)

    async def _opened(self, endpoint: Endpoint, netns: str) -> None:
        if self._naming is not None:
            await self._naming.opened(endpoint, netns)

    async def _open(self) -> None:
        if self._instance is not None:
            return
        self._executor = ThreadPoolExecutor(1, f"network-{self._names.prefix}")
        try:
            if self._namespace is not None:
                await self._call(_enter, self._namespace)
            self._instance = await self._call(
                Instance,
                self._names,
                self._local_subnet,
                lambda: self._clock.now().timestamp(),
            )
        except BaseException:
            self._executor.shutdown()
            self._executor = None
            raise

    def _running(self) -> Instance:
        if self._instance is None:
            raise FailedPrecondition("the host's network is not started")
        return self._instance

    async def _call(self, function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        loop = asyncio.get_running_loop()
        work = functools.partial(function, *args, **kwargs)
        try:
            return await loop.run_in_executor(self._executor, work)
        except OSError as error:
            raise Internal(f"the host's network cannot be changed: {error}") from error
        finally:
            self._look_at_report()

    def _look_at_report(self) -> None:
        if self._instance is None:
            return
        if self._instance.sealing.hurried:
            self._changed.set()
        report = (self._instance.sealing.keys, self._instance.publishing.taken)
        if report != (self._keys, self._taken):
            self._keys, self._taken = report
            if self.report_changed is not None:
                self.report_changed()


def _notice(
    loop: asyncio.AbstractEventLoop, filenos: tuple[int, ...], changed: asyncio.Event
) -> None:
    """Wake `run` once; it reads again when it has drained the sockets."""
    for fileno in filenos:
        loop.remove_reader(fileno)
    changed.set()


def _enter(namespace: Path) -> None:
    descriptor = os.open(namespace, os.O_RDONLY | os.O_CLOEXEC)
    try:
        netns.enter(descriptor)
    finally:
        os.close(descriptor)
