"""Which sandboxes exist on this machine: one directory and one `sandbox.json` each.

The record is written before anything of the kernel is made and removed after everything is
gone, so that whatever crashed between can be cleaned by `down`. Two locks: one per sandbox,
held by every verb that changes it, and one for the machine while an address range is chosen.
"""

import fcntl
import json
import os
import subprocess
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from ipaddress import IPv4Network, ip_network
from pathlib import Path

import msgspec

from shoal.cli.sandbox.plan import SandboxPlan
from shoal.model.errors import Internal, NotFound, ResourceExhausted

DEFAULT_BASE = Path("/var/lib/shoal-sandbox")
_LOCKS = Path("/run/lock")
_RECORD = "sandbox.json"


@contextmanager
def _locked(path: Path) -> Iterator[None]:
    """An exclusive lock that leaves no file: who waited for a removed one tries again."""
    path.parent.mkdir(parents=True, exist_ok=True)
    while True:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        try:
            if os.stat(path).st_ino == os.fstat(descriptor).st_ino:
                break
        except FileNotFoundError:
            pass
        os.close(descriptor)
    try:
        yield
    finally:
        path.unlink(missing_ok=True)
        os.close(descriptor)


def machine_lock() -> AbstractContextManager[None]:
    """Held while a range is chosen, and while what all sandboxes share is made or removed."""
    return _locked(_LOCKS / "shoal-sandbox.lock")


def sandbox_lock(name: str) -> AbstractContextManager[None]:
    """Held by a verb that changes the sandbox, so that two of them never mix."""
    return _locked(_LOCKS / f"shoal-sandbox-{name}.lock")


class Registry:
    """The sandboxes recorded below one base directory."""

    def __init__(self, base: Path) -> None:
        self.base = base

    def find(self, name: str) -> SandboxPlan | None:
        """The sandbox as recorded, or None where there is none."""
        path = self.base / name / _RECORD
        try:
            plan = msgspec.json.decode(
                path.read_bytes(), type=SandboxPlan, dec_hook=lambda kind, text: kind(text)
            )
        except FileNotFoundError:
            return None
        except msgspec.DecodeError as error:
            raise Internal(
                f"{path} cannot be read ({error}); it was written by hand"
            ) from error
        return msgspec.structs.replace(plan, base=self.base)

    def get(self, name: str) -> SandboxPlan:
        plan = self.find(name)
        if plan is None:
            raise NotFound(
                f"there is no sandbox {name}; `shoal sandbox up --name {name}` makes one"
            )
        return plan

    def list(self) -> list[SandboxPlan]:
        if not self.base.is_dir():
            return []
        names = sorted(entry.name for entry in self.base.iterdir())
        return [plan for name in names if (plan := self.find(name)) is not None]

    def save(self, plan: SandboxPlan) -> None:
        """Write the record whole or not at all."""
        plan.directory.mkdir(parents=True, exist_ok=True)
        fresh = plan.directory / f".{_RECORD}"
        fresh.write_bytes(msgspec.json.encode(plan, enc_hook=str))
        fresh.replace(plan.directory / _RECORD)

    def free_subnet(self) -> int:
        """A /24 of 10.77.0.0/16 that no sandbox and no route of the machine uses.

        Callers hold `machine_lock` until their own record is saved and their link is up.
        """
        taken = {plan.subnet for plan in self.list()}
        routes = _routes()
        for subnet in range(1, 255):
            network = IPv4Network(f"10.77.{subnet}.0/24")
            if subnet not in taken and not any(network.overlaps(route) for route in routes):
                return subnet
        raise ResourceExhausted("every /24 of 10.77.0.0/16 is in use on this machine")


def _routes() -> list[IPv4Network]:
    output = subprocess.run(
        ["ip", "-j", "-4", "route", "show", "table", "all"], check=True, capture_output=True
    ).stdout
    found = []
    for route in json.loads(output or b"[]"):
        network = ip_network(route["dst"].replace("default", "0.0.0.0/0"), strict=False)
        if isinstance(network, IPv4Network) and network.prefixlen > 0:
            found.append(network)
    return found
