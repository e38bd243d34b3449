"""The networks of this host: the three that are always there, and what users make.

A user's network is one file; all of them are said to the host's network at the agent's start
and after each change. Who uses one is asked of the containers' records, never kept twice. The
API and the creation of containers call it.
"""

import asyncio
import contextlib
import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import Protocol

import msgspec
import structlog

from agent.engine import subnetting
from agent.engine.container import Container
from agent.engine.describe import network_id
from agent.engine.events import EventBus
from agent.network.local import Driver, LocalNetwork, Pool
from shoal.common.clock import Clock
from shoal.common.entropy import new_hex_id
from shoal.model.assignment import Assignments, MeshPart
from shoal.model.errors import (
    AlreadyExists,
    FailedPrecondition,
    InvalidArgument,
    NotFound,
    PermissionDenied,
)
from shoal.model.spec.network import NetworkSpec, mtu_of
from shoal.model.validate.local_network import (
    ICC,
    MASQUERADE,
    PARENT,
    check_local_network,
    truth,
)

_log = structlog.get_logger(__name__)

GATEWAY_NETWORK = "docker_gwbridge"
DRIVERS = {"bridge": "bridge", "host": "host", "none": "null", GATEWAY_NETWORK: "bridge"}
BUILTIN = ("bridge", "host", "none")


class UserNetwork(msgspec.Struct, frozen=True, kw_only=True):
    """A network that a user made, as it is on disk."""

    spec: NetworkSpec
    created_at: datetime
    network: LocalNetwork

    @property
    def id(self) -> str:
        return self.network.id

    @property
    def name(self) -> str:
        return self.network.name


class Wires(Protocol):
    """What is used of the host's network; `agent.network.host_network.HostNetwork` is it."""

    async def set_local(self, networks: Sequence[LocalNetwork]) -> None: ...

    async def probe(self, network: LocalNetwork) -> None: ...

    async def used_subnets(self) -> list[str]: ...


class HostNetworks:
    """All networks of this host.

    Attributes:
        builtin: ids of those that are always there, by name.
        containers: of this host.
        in_cluster: whether this host is in a cluster, and so has the gateway network.
        told: what managers told this host of the cluster's networks.
    """

    def __init__(
        self,
        directory: Path,
        instance: str,
        wires: Wires,
        containers: Iterable[Container],
        events: EventBus,
        clock: Clock,
    ) -> None:
        self._directory = directory
        self._wires = wires
        self.containers = containers
        self._events = events
        self._clock = clock
        self._turn = asyncio.Lock()  # a network is chosen, made and kept before the next
        self._made: dict[str, UserNetwork] = {}
        self._builtin = {name: network_id(instance, name) for name in DRIVERS}
        self.in_cluster: Callable[[], bool] = lambda: False
        self.told: Callable[[], Assignments] = Assignments

    @property
    def builtin(self) -> Mapping[str, str]:
        """Ids of those that nobody made, by name."""
        shown = DRIVERS if self.in_cluster() else BUILTIN
        return {name: self._builtin[name] for name in shown}

    def __iter__(self) -> Iterator[UserNetwork]:
        return iter(sorted(self._made.values(), key=lambda each: each.created_at))

    async def restore(self) -> None:
        """Read what is on disk, and have it in the kernel; before containers are adopted."""
        for made in await asyncio.to_thread(_load, self._directory):
            self._made[made.id] = made
        await self._tell()

    def get(self, identity: str) -> UserNetwork | None:
        """A user's network by its id."""
        return self._made.get(identity)

    def find(self, text: str) -> tuple[str, str] | None:
        """Id and name of the network meant by an id, a name or the start of an id.

        Raises:
            InvalidArgument: several begin so.
        """
        known = {i: n for n, i in self.builtin.items()} | {n.id: n.name for n in self}
        for fits in (
            [(i, n) for i, n in known.items() if i == text],
            [(i, n) for i, n in known.items() if n == text],
            [(i, n) for i, n in known.items() if text and i.startswith(text)],
        ):
            if len(fits) > 1:
                raise InvalidArgument(
                    f"network {text} is ambiguous"
                    f" ({len(fits)} matches found based on ID prefix)"
                )
            if fits:
                return fits[0]
        return None

    def check_free(self, name: str) -> None:
        """Refuse a name that this host has a network of."""
        if name in self._builtin:
            raise PermissionDenied(f"{name} is a pre-defined network and cannot be created")
        if any(each.name == name for each in self._made.values()):
            raise AlreadyExists(f"network with name {name} already exists")

    async def create(self, spec: NetworkSpec) -> UserNetwork:
        """Make a network.

        Raises:
            ClusterError: it cannot be made; the sentence says why.
        """
        check_local_network(spec)
        async with self._turn:
            self.check_free(spec.name)
            identity = new_hex_id()
            others = [p.subnet for each in self._made.values() for p in each.network.pools]
            pools = subnetting.pools_of(
                spec,
                spec.name,
                [*others, *self._of_cluster()],
                await self._wires.used_subnets(),
            )
            numbers = {each.network.number for each in self._made.values()}
            number = next(n for n in range(1, len(numbers) + 2) if n not in numbers)
            network = _network(spec, identity, number, pools)
            if not network.bridged:
                await self._wires.probe(network)
            made = UserNetwork(spec=spec, created_at=self._clock.now(), network=network)
            await asyncio.to_thread(_save, self._directory, made)
            self._made[identity] = made
            try:
                await self._tell()
            except BaseException:
                await self._forget(made)
                raise
        self.publish("create", made.id, made.name, made.network.driver)
        return made

    async def remove(self, identity: str) -> None:
        """Take away a network that nothing is on.

        Raises:
            PermissionDenied: containers are on it, or it is always there.
        """
        for name, known in self._builtin.items():
            if known == identity:
                raise PermissionDenied(f"{name} is a pre-defined network and cannot be removed")
        async with self._turn:
            made = self._made.get(identity)
            if made is None:
                raise NotFound(f"network {identity} not found")
            users = [each for each in self.users_of(identity) if each.record.state.running]
            if users:
                said = ", ".join(
                    f'name:"{each.record.name}" id:"{each.id[:12]}"' for each in users
                )
                raise PermissionDenied(
                    f"error while removing network: network {made.name} has active endpoints"
                    f" ({said})"
                )
            await self._forget(made)
        self.publish("destroy", made.id, made.name, made.network.driver)

    def users_of(self, identity: str) -> list[Container]:
        """The containers that are on a network, or will be when they start."""
        return [
            each
            for each in self.containers
            if any(joined.network == identity for joined in each.record.networks)
        ]

    def publish(
        self, action: str, identity: str, name: str, kind: str, **attributes: str
    ) -> None:
        """Tell an event of a network."""
        self._events.publish(
            "network", action, identity, {"name": name, "type": kind} | attributes
        )

    @property
    def mesh(self) -> MeshPart:
        """This host's part of the gateway network."""
        return self.told().mesh

    def _of_cluster(self) -> list[str]:
        """The subnets of the cluster's networks that this host knows."""
        told = self.told().networks.values()
        return [subnet.subnet for each in told for subnet in each.subnets]

    async def _forget(self, made: UserNetwork) -> None:
        try:
            await self._tell(without=made.id)
        except FailedPrecondition as error:  # a container is starting on it
            raise PermissionDenied(f"error while removing network: {error}") from error
        await asyncio.to_thread(_file(self._directory, made.id).unlink, missing_ok=True)
        del self._made[made.id]

    async def _tell(self, without: str = "") -> None:
        left = (each.network for each in self._made.values() if each.id != without)
        networks = sorted(left, key=lambda each: each.number)
        await self._wires.set_local(tuple(networks))


def _network(
    spec: NetworkSpec, identity: str, number: int, pools: tuple[Pool, ...]
) -> LocalNetwork:
    driver: Driver = "bridge"
    mode = flag = ""
    if spec.driver == "macvlan":
        driver, mode = "macvlan", spec.options.get("macvlan_mode", "bridge")
    elif spec.driver == "ipvlan":
        driver, mode = "ipvlan", spec.options.get("ipvlan_mode", "l2")
        flag = spec.options.get("ipvlan_flag", "bridge")
    return LocalNetwork(
        id=identity,
        name=spec.name,
        number=number,
        driver=driver,
        pools=pools,
        internal=spec.internal,
        masquerade=truth(spec.options, MASQUERADE, default=True),
        isolated=not truth(spec.options, ICC, default=True),
        mtu=mtu_of(spec) or 1500,
        parent=spec.options.get(PARENT, ""),
        mode=mode,
        flag=flag,
    )


def _file(directory: Path, identity: str) -> Path:
    return directory / f"{identity}.json"


def _save(directory: Path, made: UserNetwork) -> None:
    directory.mkdir(parents=True, exist_ok=True)
    fresh = directory / f"{made.id}.new"
    with fresh.open("wb") as file:
        file.write(msgspec.json.encode(made))
        os.fsync(file.fileno())
    fresh.rename(_file(directory, made.id))


def _load(directory: Path) -> list[UserNetwork]:
    found = []
    for fresh in directory.glob("*.new"):
        with contextlib.suppress(OSError):
            fresh.unlink()
    for file in sorted(directory.glob("*.json")):
        try:
            found.append(msgspec.json.decode(file.read_bytes(), type=UserNetwork))
        except (OSError, msgspec.DecodeError) as error:
            _log.warning("network cannot be read", file=file.name, reason=str(error))
    return found
