"""The way to the other hosts: whether packets pass, plainly, by VXLAN and by WireGuard."""

import json
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

from shoal.cli.doctor import echo
from shoal.cli.doctor.finding import Finding, Ground, ok, problem, warning

_VXLAN_OVERHEAD = 50
_LEAST = 28
"""Bytes of an echo that says nothing: the headers of IPv4 and ICMP."""


def underlay(ground: Ground) -> Iterable[Finding]:
    """Whether full packets pass to each host that the gateway network has a way to."""
    for peer in sorted(_peers(ground)):
        mtu = _mtu_towards(ground, peer)
        full = echo.answers(peer, mtu)
        yield judge_way(peer, mtu, answers=full or echo.answers(peer, _LEAST), full=full)


def judge_way(peer: str, mtu: int, *, answers: bool, full: bool) -> Finding:
    """What pings to a host tell."""
    if full:
        return ok(f"packets of {mtu} bytes pass to {peer}")
    if not answers:
        return warning(
            f"{peer} does not answer pings: whether packets of {mtu} bytes pass is unknown",
            "let ICMP pass between the hosts to know",
        )
    return problem(
        f"{peer} answers, but packets of {mtu} bytes do not pass on the way: large answers of"
        " containers there get lost",
        "give the hosts' link the MTU of the way, or networks a smaller one (`docker network"
        f" create --opt com.docker.network.driver.mtu=...`, {_VXLAN_OVERHEAD} less)",
    )


def tunnels(ground: Ground) -> Iterable[Finding]:
    """Whether each host answers through the VXLAN that leads to it."""
    for peer, inside in sorted(_peers(ground).items()):
        if not inside:
            continue
        through = echo.answers(inside, _LEAST)
        plainly = through or echo.answers(peer, _LEAST)
        yield judge_tunnel(peer, ground.config.vxlan_port, through=through, plainly=plainly)


def judge_tunnel(peer: str, port: int, *, through: bool, plainly: bool) -> Finding:
    """What a host answers that is asked through the tunnel."""
    if through:
        return ok(f"{peer} answers through VXLAN (UDP port {port})")
    if not plainly:
        return warning(
            f"{peer} answers neither plainly nor through VXLAN (UDP port {port}): it is off, or"
            " nothing passes to it",
            "look at that host, and at what is between",
        )
    return problem(
        f"{peer} answers, but not through VXLAN (UDP port {port}): containers of the two hosts"
        " do not reach each other, and published ports lead to none of its tasks",
        f"let UDP port {port} pass between the hosts, both ways; `shoal doctor` on {peer} tells"
        " whether its own rules drop it",
    )


def handshakes(ground: Ground) -> Iterable[Finding]:
    """Whether each host of encrypted networks has answered WireGuard's handshake."""
    listed = ground.run(("wg", "show", "interfaces"))
    for device in listed.said.split() if listed.status == 0 else ():
        if device.startswith(f"{ground.config.link_prefix}-w"):
            endpoints = ground.run(("wg", "show", device, "endpoints"))
            last = ground.run(("wg", "show", device, "latest-handshakes"))
            yield from judge_handshakes(_pairs(endpoints.said), _pairs(last.said))


def judge_handshakes(
    endpoints: Mapping[str, str], last: Mapping[str, str]
) -> Iterator[Finding]:
    """By each host's key: its address and port, and when it answered last (0: never)."""
    for key, endpoint in sorted(endpoints.items(), key=lambda each: each[1]):
        peer, _, port = endpoint.rpartition(":")
        if not port.isdigit():  # nobody has told where it is
            continue
        if last.get(key, "0") != "0":
            yield ok(f"{peer} has answered on encrypted networks (UDP port {port})")
        else:
            yield problem(
                f"{peer} has never answered WireGuard's handshake (UDP port {port}): encrypted"
                " networks do not reach it",
                f"let UDP port {port} pass between the hosts, both ways",
            )


def _pairs(text: str) -> dict[str, str]:
    rows = (line.split() for line in text.splitlines())
    return {row[0]: row[1] for row in rows if len(row) == 2}


def _peers(ground: Ground) -> dict[str, str]:
    """The hosts that the gateway network has a way to, and their addresses inside it."""
    device = f"{ground.config.link_prefix}-x"
    listed = ground.run(("bridge", "-j", "fdb", "show", "dev", device))
    if listed.status != 0:
        return {}
    entries = [each for each in json.loads(listed.said or "[]") if "dst" in each]
    known = ground.run(("ip", "-j", "-4", "neigh", "show", "dev", device))
    inside = {
        each["lladdr"]: each["dst"]
        for each in json.loads(known.said or "[]")
        if known.status == 0 and "lladdr" in each
    }
    return {each["dst"]: inside.get(each["mac"], "") for each in entries}


def _mtu_towards(ground: Ground, peer: str) -> int:
    route = ground.run(("ip", "-j", "route", "get", peer))
    device = json.loads(route.said)[0].get("dev", "") if route.status == 0 else ""
    file = Path("/sys/class/net") / device / "mtu"
    return int(file.read_text()) if device and file.exists() else 1500
