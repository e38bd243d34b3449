"""What a sandbox consists of: its hosts, their addresses and the names of all kernel objects.

Pure. Every name is derived from the sandbox's name and the number of its /24, so that two
sandboxes never share one and `down` knows them all from one small record on disk, whatever
crashed meanwhile. Called by every other module of this package.
"""

import re
from pathlib import Path
from typing import Literal

import msgspec

from shoal.model.errors import InvalidArgument, NotFound

Role = Literal["manager", "worker"]

MOST_MANAGERS = 89
MOST_WORKERS = 99
_NAME = re.compile(r"[a-z0-9]([a-z0-9-]{0,22}[a-z0-9])?")


class HostPlan(msgspec.Struct, frozen=True, kw_only=True):
    """One machine of a sandbox. Equal plans name equal kernel objects."""

    sandbox: str
    name: str
    role: Role
    subnet: int
    number: int
    directory: Path

    @property
    def address(self) -> str:
        return f"10.77.{self.subnet}.{self.number}"

    @property
    def mac(self) -> str:
        """Fixed, so that neighbours need not learn a new one after a power cut."""
        return f"02:53:0a:4d:{self.subnet:02x}:{self.number:02x}"

    @property
    def netns(self) -> str:
        return f"shoal-{self.sandbox}-{self.name}"

    @property
    def instance(self) -> str:
        """What the host's daemons put before the names of their own kernel objects."""
        return f"s{self.subnet:02x}{self.name}"

    @property
    def state(self) -> Path:
        return self.directory / "state"

    @property
    def run(self) -> Path:
        return self.directory / "run"

    @property
    def log(self) -> Path:
        return self.state / "host.log"

    @property
    def socket(self) -> Path:
        return self.run / "docker.sock"

    @property
    def docker_host(self) -> str:
        return f"unix://{self.socket}"

    @property
    def cgroup(self) -> str:
        """Holds the host's daemons and whatever `exec` started; containers have their own."""
        return f"shoal-sandbox/{self.sandbox}/{self.name}"

    @property
    def container_cgroup(self) -> str:
        return f"shoal/{self.instance}"


class SandboxPlan(msgspec.Struct, frozen=True, kw_only=True):
    """A whole sandbox; this is what is written to `sandbox.json`."""

    name: str
    subnet: int
    managers: int
    workers: int
    uplink: bool
    base: Path
    forwarding_was: str = ""  # the machine's ip_forward before --uplink switched it on

    @property
    def directory(self) -> Path:
        return self.base / self.name

    @property
    def link_netns(self) -> str:
        return f"shoal-{self.name}-link"

    @property
    def machine_link(self) -> str:
        """The machine's own port on the sandbox's link."""
        return f"shoal-{self.subnet}"

    @property
    def machine_address(self) -> str:
        return f"10.77.{self.subnet}.1"

    @property
    def network(self) -> str:
        return f"10.77.{self.subnet}.0/24"

    @property
    def nft_table(self) -> str:
        return f"shoal-sandbox-{self.subnet}"

    @property
    def hosts(self) -> list[HostPlan]:
        managers = [self._host("m", "manager", 10, i) for i in range(1, self.managers + 1)]
        workers = [self._host("w", "worker", 100, i) for i in range(1, self.workers + 1)]
        return managers + workers

    def host(self, name: str) -> HostPlan:
        for host in self.hosts:
            if host.name == name:
                return host
        known = ", ".join(host.name for host in self.hosts)
        raise NotFound(f"sandbox {self.name} has no host {name}; its hosts are {known}")

    def _host(self, letter: str, role: Role, first: int, index: int) -> HostPlan:
        return HostPlan(
            sandbox=self.name,
            name=f"{letter}{index}",
            role=role,
            subnet=self.subnet,
            number=first + index,
            directory=self.directory / f"{letter}{index}",
        )


def check_name(name: str) -> None:
    """Refuse a name that could not stand in a path, a namespace and a cgroup."""
    if not _NAME.fullmatch(name):
        raise InvalidArgument(
            f"{name!r} is not a name for a sandbox: use up to 24 of a-z, 0-9 and inner dashes",
            field="name",
        )


def check_size(managers: int, workers: int) -> None:
    """Refuse a number of hosts that has no addresses, or no manager to begin with."""
    if not 1 <= managers <= MOST_MANAGERS:
        raise InvalidArgument(
            f"--managers must be from 1 to {MOST_MANAGERS}, not {managers}", field="managers"
        )
    if not 0 <= workers <= MOST_WORKERS:
        raise InvalidArgument(
            f"--workers must be from 0 to {MOST_WORKERS}, not {workers}", field="workers"
        )
