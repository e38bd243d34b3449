"""Links, addresses, routes and neighbours: what is there against what is planned.

The comparisons are plain functions from a plan and the kernel's answers to requests; `Applier`
asks, compares and sends. Everything is idempotent, touches only what carries the instance's
prefix, and runs again whenever something may have changed. `instance` is the caller.
"""

from collections.abc import Iterable
from pathlib import Path

import structlog

from agent.network import rtnetlink as rt
from agent.network.netlink import Channel, Request
from agent.network.plan import Bridge, Names, Plan, Vxlan

_log = structlog.get_logger(__name__)
_SYSCTL = Path("/proc/sys/net/ipv4")


def link_changes(
    names: Names, plan: Plan, links: dict[str, rt.Link], *, keep_mesh: bool
) -> list[Request]:
    """Bridges and VXLAN device to make, change or delete.

    A device of the wrong kind, or whose fixed properties differ, is deleted and made anew.
    """
    requests: list[Request] = []
    wanted: list[Bridge | Vxlan] = list(plan.bridges)
    if plan.vxlan is not None:
        wanted.append(plan.vxlan)
    elif not keep_mesh:
        gone = (name for name in (names.vxlan, names.mesh_bridge) if name in links)
        requests += [rt.delete_link(name) for name in gone]
    for desired in wanted:
        link = links.get(desired.name)
        new = rt.new_bridge if isinstance(desired, Bridge) else rt.new_vxlan
        if link is None:
            requests.append(new(desired))  # type: ignore[arg-type]
        elif not _same_device(link, desired):
            requests += [rt.delete_link(desired.name), new(desired)]  # type: ignore[arg-type]
        elif (link.up, link.mtu, link.mac) != (True, desired.mtu, desired.mac):
            requests.append(
                rt.set_link(link.name, link.index, mtu=desired.mtu, mac=desired.mac)
            )
    return requests


def _same_device(link: rt.Link, desired: Bridge | Vxlan) -> bool:
    if isinstance(desired, Bridge):
        return link.kind == "bridge"
    found = (link.kind, link.vni, link.port, link.local)
    return found == ("vxlan", desired.vni, desired.port, desired.local)


def address_changes(
    plan: Plan, links: dict[str, rt.Link], addresses: Iterable[rt.Address]
) -> list[Request]:
    """Each bridge has its gateway address and no other."""
    requests: list[Request] = []
    present = list(addresses)
    for bridge in plan.bridges:
        index = links[bridge.name].index
        wanted = (bridge.address, bridge.prefix_length)
        found = {(a.address, a.prefix_length) for a in present if a.index == index}
        requests += [rt.delete_address(index, *each) for each in sorted(found - {wanted})]
        if wanted not in found:
            requests.append(rt.new_address(index, *wanted))
    return requests


def port_changes(plan: Plan, links: dict[str, rt.Link]) -> list[Request]:
    """Containers' links on their bridge and up. One that is gone cannot be brought back."""
    requests: list[Request] = []
    for port in plan.ports:
        link, bridge = links.get(port.name), links.get(port.bridge)
        if link is None or bridge is None:
            continue
        if link.master != bridge.index or not link.up:
            requests.append(rt.set_link(link.name, link.index, master=bridge.index))
        if link.master != bridge.index or not link.hairpin:
            requests.append(rt.set_hairpin(link.name))
    return requests


def stray_links(names: Names, plan: Plan, links: dict[str, rt.Link]) -> list[Request]:
    """Links of containers that are no more."""
    known = {port.name for port in plan.ports}
    return [rt.delete_link(n) for n in sorted(links) if names.is_veth(n) and n not in known]


class Applier:
    """Brings the links of one instance into the planned state."""

    def __init__(self, names: Names, channel: Channel) -> None:
        self._names = names
        self._channel = channel

    def links(self) -> dict[str, rt.Link]:
        """All links of this namespace by name."""
        found = map(rt.parse_link, self._channel.dump(*rt.LINKS))
        return {link.name: link for link in found}

    def underlay_mtu(self, underlay: str) -> int:
        """How large packets from this address may be; 1500 while no link has it."""
        indexes = {a.index for a in self._addresses() if a.address == underlay}
        return min((x.mtu for x in self.links().values() if x.index in indexes), default=1500)

    def apply(self, plan: Plan, *, keep_mesh: bool) -> dict[str, rt.Link]:
        """Make it so; returns the links as they are then.

        Args:
            plan: the desired state.
            keep_mesh: leave the mesh's links alone although the plan has none.
        """
        links = self.links()
        changed = self._send(
            [
                *stray_links(self._names, plan, links),
                *link_changes(self._names, plan, links, keep_mesh=keep_mesh),
            ]
        )
        if changed:
            links = self.links()
        # addresses first: routes need them as their source
        self._send(address_changes(plan, links, self._addresses()))
        self._send(port_changes(plan, links))
        if plan.vxlan is not None:
            self._send(self._mesh_changes(plan, links[plan.vxlan.name].index))
        self._set_sysctls(plan)
        return links

    def remove(self) -> None:
        """Delete every link of this instance."""
        owned = [name for name in self.links() if self._names.owns(name)]
        self._channel.apply([rt.delete_link(name) for name in owned])

    def _mesh_changes(self, plan: Plan, index: int) -> list[Request]:
        """Routes, neighbours and forwarding entries of the VXLAN device: these, no others."""
        found_routes = map(rt.parse_route, self._channel.dump(*rt.routes_over(index)))
        routes = {(r.subnet, r.via, r.source) for r in found_routes if r and r.index == index}
        wanted_routes = {(r.subnet, r.via, r.source) for r in plan.routes}
        found = map(rt.parse_neighbour, self._channel.dump(*rt.neighbours_of(index)))
        neighbours = {(n.address, n.mac) for n in found if n and n.index == index}
        wanted_neighbours = {(n.address, n.mac) for n in plan.neighbours}
        found = map(rt.parse_neighbour, self._channel.dump(*rt.forwarding_of(index)))
        forwarding = {(n.mac, n.address) for n in found if n and n.index == index}
        wanted_forwarding = {(f.mac, f.underlay) for f in plan.forwarding}
        kept = {subnet for subnet, _, _ in wanted_routes}
        return [
            *(
                rt.delete_route(index, subnet)
                for subnet in sorted({r[0] for r in routes} - kept)
            ),
            *(
                rt.delete_neighbour(index, address)
                for address in sorted({n[0] for n in neighbours - wanted_neighbours})
            ),
            *(
                rt.delete_forwarding(index, mac)
                for mac in sorted({f[0] for f in forwarding - wanted_forwarding})
            ),
            *(rt.new_neighbour(index, *n) for n in sorted(wanted_neighbours - neighbours)),
            *(rt.new_forwarding(index, *f) for f in sorted(wanted_forwarding - forwarding)),
            *(rt.new_route(index, *r) for r in sorted(wanted_routes - routes)),
        ]

    def _addresses(self) -> list[rt.Address]:
        return [rt.parse_address(each) for each in self._channel.dump(*rt.ADDRESSES)]

    def _send(self, requests: list[Request]) -> bool:
        if requests:
            _log.debug("network changed", changes=[each.what for each in requests])
            self._channel.apply(requests)
        return bool(requests)

    def _set_sysctls(self, plan: Plan) -> None:
        """Forwarding, and 127.0.0.1 as a way to published ports (`input` rules guard it)."""
        devices = [bridge.name for bridge in plan.bridges]
        if plan.vxlan is not None:
            devices.append(plan.vxlan.name)
        paths = [_SYSCTL / "ip_forward"]
        paths += [_SYSCTL / "conf" / device / "route_localnet" for device in devices]
        for path in paths:
            if path.read_text().strip() != "1":
                path.write_text("1")
