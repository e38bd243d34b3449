"""Every check there is. A new one is a function and a row here; nothing else knows of it."""

from collections.abc import Callable, Iterable
from typing import NamedTuple

from shoal.cli.doctor import (
    clock,
    groups,
    kernel,
    limits,
    network,
    ports,
    programs,
    storage,
    underlay,
)
from shoal.cli.doctor.finding import Finding, Ground


class Check(NamedTuple):
    """A check: what it is about, as the output shows it, and the function that looks."""

    subject: str
    look: Callable[[Ground], Iterable[Finding]]


CHECKS = (
    Check("kernel", kernel.root),
    Check("kernel", kernel.version),
    Check("kernel", kernel.features),
    Check("limits", limits.limits),
    Check("control groups", groups.control_groups),
    Check("programs", programs.programs),
    Check("etcd", programs.etcd),
    Check("ports", ports.ports),
    Check("firewalls", network.firewalls),
    Check("network", network.forwarding),
    Check("network", underlay.underlay),
    Check("network", underlay.tunnels),
    Check("network", network.encryption),
    Check("network", underlay.handshakes),
    Check("state", storage.ownership),
    Check("disk", storage.space),
    Check("disk", storage.sync),
    Check("certificate", clock.certificate),
    Check("clock", clock.skew),
)
