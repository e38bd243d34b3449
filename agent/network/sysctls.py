"""The host's switches that the network needs; a change of them sends no event.

They are those of the calling thread's namespace. Used by `apply`, and `inside` containers.
"""

from collections.abc import Collection
from pathlib import Path

from agent.network.plan import Plan

_NET = Path("/proc/sys/net")
_KERNELS_PATIENCE = "120"


def bridges_are_filtered() -> bool:
    """Whether frames between ports of any bridge pass the host's rules: bridge netfilter."""
    switch = _NET / "bridge/bridge-nf-call-iptables"
    return switch.exists() and switch.read_text().strip() == "1"


def has_ipv6() -> bool:
    """Whether this kernel has IPv6 at all."""
    return (_NET / "ipv6").exists()


def accept_by_any_way(device: str) -> None:
    """Take packets on this device whose answers would leave by another one.

    While a key is changed the two directions between hosts may use different devices.
    """
    _set(_NET / "ipv4/conf" / device / "rp_filter", "2")


def forget_unanswered() -> None:
    """Forget a connection that is not answered within a second, when its client tries again.

    A virtual IP then leads it to another backend: the first one's host may be lost, and the
    kernel would keep to it for two minutes. What a user gave the container stays.
    """
    seconds = _NET / "netfilter/nf_conntrack_tcp_timeout_syn_sent"
    if seconds.read_text().strip() == _KERNELS_PATIENCE:
        seconds.write_text("1")


def set_sysctls(plan: Plan, links: Collection[str]) -> None:
    """Forwarding, and 127.0.0.1 as a way to published ports (`input` rules guard it)."""
    gateways = [bridge.name for bridge in plan.bridges if bridge.addresses]
    routed = {name for name, entries in plan.entries.items() if not entries.bridged}
    _set(_NET / "ipv4/ip_forward", "1")
    for device in (*gateways, *sorted(routed)):
        _set(_NET / "ipv4/conf" / device / "route_localnet", "1")
    speaks6 = [
        bridge.name
        for bridge in plan.bridges
        if any(":" in address for address in bridge.addresses)
    ]
    if speaks6:
        for device in (*speaks6, *sorted(routed)):
            _set(_NET / "ipv6/conf" / device / "disable_ipv6", "0")
            _set(_NET / "ipv6/conf" / device / "accept_ra", "0")
        _forward_ipv6({*links} - {*speaks6, *routed})


def _forward_ipv6(uplinks: Collection[str]) -> None:
    """Forward, and go on to hear routers where the host did: forwarding would end that."""
    switch = _NET / "ipv6/conf/all/forwarding"
    if switch.read_text().strip() != "0":
        return
    for device in uplinks:
        hears = _NET / "ipv6/conf" / device / "accept_ra"
        if hears.exists() and hears.read_text().strip() == "1":
            hears.write_text("2")
    switch.write_text("1")


def _set(path: Path, value: str) -> None:
    if path.read_text().strip() != value:
        path.write_text(value)
