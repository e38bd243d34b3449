"""Names and virtual IPs of the containers on this host's networks: what the data path calls.

    change(source, views)      what the networks of a source (the cluster, this host) are now
    open(...)                  for each container, new or adopted, before its first process runs
    set_networks(...)          a running container joined or left a network
    close(container)           before its namespace is to vanish: the sockets here pin it
    settle()                   all that were adopted are open: what is left belongs to nobody
    run()                      answers names and repairs, in the owner's TaskGroup

After a restart `change` comes before `open`, with what the agent's journal has: until each
network of a container is known its rules stay as they are and its queries wait. Blocking work
is done in one thread. What fails in one container is tried again each second, and the others
are served.
"""

import asyncio
import errno
import functools
import random
import socket
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import ParamSpec, Protocol, TypeVar

import msgspec
import structlog

from agent.network.balancing import Backends, changes
from agent.network.container_rules import ContainerRules
from agent.network.dns import RESOLVER
from agent.network.inside import open_beside, open_rules, open_sockets
from agent.network.resolver import Resolver, Sockets, Upstream
from agent.network.upstream import HostServers, open_here
from agent.network.views import NetworkView
from shoal.model.errors import AlreadyExists, Internal, NotFound

_log = structlog.get_logger(__name__)
_LOOK_SECONDS = 1.0
_PREFIX = "names/"
P = ParamSpec("P")
T = TypeVar("T")
_Differences = Mapping[str, Mapping[str, Backends | None]]


class DescriptorKeeper(Protocol):
    """Keeps descriptors when this process ends; `shoal.common.host_client` has one."""

    async def keep_descriptor(self, name: str, descriptor: int) -> None:
        """Keep a copy under a name."""
        ...

    async def drop_descriptor(self, name: str) -> None:
        """Close the copy. Idempotent."""
        ...


class Resolving(msgspec.Struct, frozen=True, kw_only=True):
    """How a container resolves what is not of its networks.

    Attributes:
        servers: asked from inside the container, in place of the host's.
        external: without it (all networks are internal) the host's servers are not asked.
    """

    servers: tuple[str, ...] = ()
    external: bool = True


AS_HOST = Resolving()
"""As the host does."""


class _Container:
    """One container.

    Attributes:
        sockets: None while they cannot be opened.
        made: its rules are as its networks want them.
        answering: the resolver has its sockets.
    """

    def __init__(
        self, name: str, descriptor: int, networks: tuple[str, ...], resolving: Resolving
    ) -> None:
        self.name = name
        self.networks = networks
        self.resolving = resolving
        self.rules = ContainerRules(name, open_rules(descriptor))
        self.sockets: Sockets | None = None
        self.made = False
        self.answering = False
        self.trouble = ""

    def close(self) -> None:
        """Close all that pins the namespace."""
        self.rules.close()
        if self.sockets is not None:
            self.sockets.close()


class ContainerNames:
    """All containers of this host that are on networks with names.

    Args:
        keeper: keeps the sockets while the agent is gone.
        left: the descriptors that the keeper had at the agent's start; those of others are not
            touched.
        chance: for ids and the order of answers; not to be foreseen.
        host_servers: the host's own name servers.
    """

    def __init__(
        self,
        keeper: DescriptorKeeper,
        left: Mapping[str, int],
        chance: random.Random,
        host_servers: Callable[[], Sequence[str]] | None = None,
    ) -> None:
        self._keeper = keeper
        self._left = {
            name: socket.socket(fileno=descriptor)
            for name, descriptor in left.items()
            if name.startswith(_PREFIX)
        }
        self._host_servers = host_servers or HostServers()
        self._resolver = Resolver(chance)
        self._executor = ThreadPoolExecutor(1, "names")
        self._turn = asyncio.Lock()
        self._containers: dict[str, _Container] = {}
        self._sources: dict[str, Mapping[str, NetworkView]] = {}
        self._views: dict[str, NetworkView] = {}

    async def change(self, source: str, views: Mapping[str, NetworkView]) -> list[str]:
        """Replace all networks of a source; every container is as they want on return.

        Returns a sentence for each container where that failed; it is tried again.
        """
        async with self._turn:
            self._sources[source] = views
            old = self._views
            self._views = {
                k: view for each in self._sources.values() for k, view in each.items()
            }
            return await self._apply(_differences(old, self._views))

    async def open(
        self,
        container: str,
        descriptor: int,
        networks: Sequence[str],
        resolving: Resolving = AS_HOST,
    ) -> None:
        """Give a container names and virtual IPs.

        Args:
            container: its id.
            descriptor: its network namespace; the caller may close it afterwards.
            networks: the names of its networks' views, in the order in which they are asked.
            resolving: where other names come from.

        Raises:
            AlreadyExists: it is open.
            Internal: the kernel refused.
        """
        async with self._turn:
            if container in self._containers:
                raise AlreadyExists(f"container {container} has its names already")
            opened = await self._call(
                _Container, container, descriptor, tuple(networks), resolving
            )
            self._containers[container] = opened
            try:
                await self._open_sockets(opened)
                await self._apply_or_raise(opened)
            except BaseException:
                await self._close(opened)
                raise

    async def set_networks(
        self, container: str, networks: Sequence[str], resolving: Resolving = AS_HOST
    ) -> None:
        """What a running container is on from now on.

        Raises:
            NotFound: it is not open.
            Internal: the kernel refused.
        """
        async with self._turn:
            changed = self._containers.get(container)
            if changed is None:
                raise NotFound(f"container {container} has no names")
            changed.networks, changed.resolving = tuple(networks), resolving
            changed.made = False
            await self._apply_or_raise(changed)

    async def close(self, container: str) -> None:
        """Let go of a container's namespace. Idempotent."""
        async with self._turn:
            closed = self._containers.get(container)
            if closed is not None:
                await self._close(closed)

    async def settle(self) -> None:
        """Close what an earlier run left for containers that are not open."""
        async with self._turn:
            left, self._left = self._left, {}
            for name, each in left.items():
                each.close()
                await self._keeper.drop_descriptor(name)

    async def run(self) -> None:
        """Answer names and repair until cancelled."""
        async with asyncio.TaskGroup() as group:
            group.create_task(self._resolver.run())
            while True:
                await asyncio.sleep(_LOOK_SECONDS)
                async with self._turn:
                    await self._look()

    async def stop(self) -> None:
        """Close everything here; rules stay, and the keeper has the sockets. Idempotent."""
        async with self._turn:
            for each in self._containers.values():
                self._resolver.remove(each.name)
                each.close()
            self._containers.clear()
            for left in self._left.values():
                left.close()
            self._left.clear()
            self._executor.shutdown()

    async def _look(self) -> None:
        for each in list(self._containers.values()):
            if each.sockets is None:
                try:
                    await self._open_sockets(each)
                except Internal as error:
                    self._tell(each, f"it has no names: {error}")
        await self._call(self._repair)
        await self._apply({})

    def _repair(self) -> None:
        for each in self._containers.values():
            if each.made:
                try:
                    each.rules.repair(functools.partial(self._wanted, each))
                except OSError:
                    each.made = False  # `_apply` says why it cannot be made

    async def _open_sockets(self, container: _Container) -> None:
        names = _descriptor_names(container.name)
        left = [self._left.pop(name, None) for name in names]
        if left[0] is not None and left[1] is not None:
            container.sockets = Sockets(left[0], left[1])
            return
        try:
            opened = await self._call(open_sockets, container.rules.fileno())
        except Internal as error:
            cause = error.__cause__
            if not isinstance(cause, OSError) or cause.errno != errno.EADDRINUSE:
                raise
            self._tell(container, f"something in it has port 53 of {RESOLVER}: it has no names")
            return
        container.sockets = opened
        for name, each in zip(names, (opened.datagrams, opened.listener), strict=True):
            await self._keeper.keep_descriptor(name, each.fileno())

    async def _apply_or_raise(self, container: _Container) -> None:
        if failed := await self._apply({}, only=container):
            raise Internal(failed[0])

    async def _apply(
        self, different: _Differences, only: _Container | None = None
    ) -> list[str]:
        """Make rules and then names what the views want; sentences of what failed."""
        chosen = list(self._containers.values()) if only is None else [only]
        failed = await self._call(self._apply_rules, different, chosen)
        for each in chosen:
            zones = [self._views[n].zone for n in each.networks if n in self._views]
            if each.sockets is not None and (each.made or each.answering):
                self._resolver.serve(each.name, each.sockets, zones, self._upstream(each))
                each.answering = True
        return failed

    def _apply_rules(self, different: _Differences, chosen: Sequence[_Container]) -> list[str]:
        failed: list[str] = []
        for each in chosen:
            try:
                if each.made:
                    own = [different[n] for n in each.networks if n in different]
                    each.rules.change(dict(pair for part in own for pair in part.items()))
                elif all(n in self._views for n in each.networks):
                    each.rules.make(self._wanted(each))
                    each.made, each.trouble = True, ""
            except OSError as error:
                each.made = False
                self._tell(each, f"its virtual IPs cannot be changed: {error}")
                failed.append(f"container {each.name}: {each.trouble}")
        return failed

    def _wanted(self, container: _Container) -> dict[str, Backends]:
        views = [self._views[n] for n in container.networks if n in self._views]
        return {a: backends for view in views for a, backends in view.virtual_ips.items()}

    def _upstream(self, container: _Container) -> Upstream | None:
        servers = tuple(each for each in container.resolving.servers if each != RESOLVER)
        if servers:
            return Upstream(lambda: servers, functools.partial(self._open_beside, container))
        return Upstream(self._host_servers, open_here) if container.resolving.external else None

    async def _open_beside(
        self, container: _Container, family: int, kind: int
    ) -> socket.socket:
        beside = container.rules.fileno()
        if beside < 0:
            raise OSError(errno.EBADF, "the container is gone")
        return await asyncio.get_running_loop().run_in_executor(
            self._executor, open_beside, beside, family, kind
        )

    async def _close(self, container: _Container) -> None:
        del self._containers[container.name]
        self._resolver.remove(container.name)
        container.close()
        for name in _descriptor_names(container.name):
            await self._keeper.drop_descriptor(name)

    def _tell(self, container: _Container, trouble: str) -> None:
        if trouble != container.trouble:
            container.trouble = trouble
            _log.warning("a container's names", container=container.name, reason=trouble)

    async def _call(self, function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        work = functools.partial(function, *args, **kwargs)
        try:
            return await asyncio.get_running_loop().run_in_executor(self._executor, work)
        except OSError as error:
            raise Internal(f"a container's network cannot be changed: {error}") from error


def _descriptor_names(container: str) -> tuple[str, str]:
    return f"{_PREFIX}{container}/udp", f"{_PREFIX}{container}/tcp"


def _differences(
    old: Mapping[str, NetworkView], new: Mapping[str, NetworkView]
) -> _Differences:
    """What changed of virtual IPs, once for all containers of a network."""
    found: dict[str, Mapping[str, Backends | None]] = {}
    for network in old.keys() | new.keys():
        before, after = old.get(network), new.get(network)
        if before is not after:
            parts = (before.virtual_ips if before else {}, after.virtual_ips if after else {})
            if different := changes(*parts):
                found[network] = different
    return found
