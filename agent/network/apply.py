"""Links, addresses, routes and neighbours: what is there against what is planned.

The comparisons are plain functions from a plan and the kernel's answers to requests; `Applier`
asks, compares and sends. Everything is idempotent, touches only what carries the instance's
prefix, and runs again whenever something may have changed. `instance` is the caller.
"""

import errno
from collections.abc import Iterable, Mapping

import structlog

from agent.network import link_requests, route_requests
from agent.network import rtnetlink as rt
from agent.network.netlink import Channel, Request
from agent.network.plan import Bridge, Entries, Ground, Names, Plan, Vxlan
from agent.network.sysctls import bridges_are_filtered, has_ipv6, set_sysctls
from shoal.model.errors import FailedPrecondition

_log = structlog.get_logger(__name__)
_SHOWN = 20


def link_changes(
    names: Names,
    plan: Plan,
    links: dict[str, rt.Link],
    *,
    keep_mesh: bool,
    keep_overlays: bool = False,
) -> list[Request]:
    """Bridges and VXLAN devices to make, change or delete.

    A device of the wrong kind, or whose fixed properties differ, is deleted and made anew.
    """
    wanted: list[Bridge | Vxlan] = [*plan.bridges, *plan.vxlans]
    known = {device.name for device in wanted}
    requests = [
        link_requests.delete_link(name)
        for name in sorted(links, reverse=True)
        if name not in known
        and (
            (name in (names.vxlan, names.mesh_bridge) and not keep_mesh)
            or (names.is_overlay(name) and not keep_overlays)
            or names.is_user_bridge(name)
        )
    ]
    for desired in wanted:
        requests += _device_changes(desired, links.get(desired.name))
    return requests


def number_clash(names: Names, plan: Plan, links: dict[str, rt.Link]) -> str:
    """Which device of somebody else has the number of a VXLAN device to be made, and a way out.

    The kernel allows a number once a port. Empty: none has.
    """
    for wanted in plan.vxlans:
        for link in links.values():
            same = (link.vni, link.port) == (wanted.vni, wanted.port)
            if same and wanted.name not in links and not names.owns(link.name):
                return (
                    f"VXLAN device {link.name} of this host, which is not ours, has number"
                    f" {link.vni} on UDP port {link.port}: remove it (ip link del {link.name}),"
                    " or give the network another number by making it anew"
                )
    return ""


def _device_changes(desired: Bridge | Vxlan, link: rt.Link | None) -> list[Request]:
    if link is None:
        return _created(desired)
    if not _same_device(link, desired):
        return [link_requests.delete_link(desired.name), *_created(desired)]
    requests = []
    if (link.up, link.mtu, link.mac) != (True, desired.mtu, desired.mac):
        requests.append(
            link_requests.set_link(link.name, link.index, mtu=desired.mtu, mac=desired.mac)
        )
    if isinstance(desired, Bridge) and link.filtered != desired.filtered:
        requests.append(link_requests.set_filtered(link.name, filtered=desired.filtered))
    return requests


def _created(desired: Bridge | Vxlan) -> list[Request]:
    new = (
        link_requests.new_bridge(desired)
        if isinstance(desired, Bridge)
        else link_requests.new_vxlan(desired)
    )
    return [
        new,
        link_requests.without_own_address(desired.name),
        link_requests.set_up(desired.name),
    ]


def _same_device(link: rt.Link, desired: Bridge | Vxlan) -> bool:
    if isinstance(desired, Bridge):
        return link.kind == "bridge"
    found = (link.kind, link.vni, link.port, link.local, link.proxy)
    return found == ("vxlan", desired.vni, desired.port, desired.local, desired.proxy)


def address_changes(
    plan: Plan, links: dict[str, rt.Link], addresses: Iterable[rt.Address]
) -> list[Request]:
    """Each bridge has its gateway addresses and no others, save what it gave itself."""
    requests: list[Request] = []
    found: dict[int, set[str]] = {}
    for each in addresses:
        found.setdefault(each.index, set()).add(each.address)
    for bridge in plan.bridges:
        index = links[bridge.name].index
        wanted, present = set(bridge.addresses), found.get(index, set())
        gone = (each for each in sorted(present - wanted) if not each.startswith("fe80:"))
        requests += [route_requests.delete_address(index, each) for each in gone]
        requests += [
            route_requests.new_address(index, each) for each in sorted(wanted - present)
        ]
    return requests


def port_changes(plan: Plan, links: dict[str, rt.Link]) -> list[Request]:
    """Links on their bridge and up. A container's that is gone cannot be brought back."""
    requests: list[Request] = []
    for port in plan.ports:
        link, bridge = links.get(port.name), links.get(port.bridge)
        if link is None or bridge is None:
            continue
        if link.master != bridge.index or not link.up:
            requests.append(link_requests.set_link(link.name, link.index, master=bridge.index))
        if link.master != bridge.index or link.flags != port.flags:
            requests.append(link_requests.set_flags(link.name, port.flags))
    return requests


def stray_links(names: Names, plan: Plan, links: dict[str, rt.Link]) -> list[Request]:
    """Links of containers that are no more."""
    return [
        link_requests.delete_link(n)
        for n in sorted(links)
        if names.is_veth(n) and n not in plan.links
    ]


def entry_changes(
    index: int,
    wanted: Entries,
    neighbours: Mapping[str, str],
    forwarding: Iterable[tuple[str, str]],
) -> list[Request]:
    """A VXLAN device has these entries and no others.

    Args:
        index: of the device.
        wanted: what it shall have.
        neighbours: address to MAC, as they are.
        forwarding: MAC and host, as they are; the host is "" in the bridge's table.
    """
    present, planned = set(forwarding), set(wanted.forwarding.items())
    if wanted.bridged:
        planned |= {(mac, "") for mac in wanted.forwarding}
    kept = {(mac, underlay == "") for mac, underlay in planned}
    gone = [each for each in present - planned if (each[0], each[1] == "") not in kept]
    added = wanted.neighbours.items() - neighbours.items()
    return [
        *(
            route_requests.delete_neighbour(index, address)
            for address in sorted(neighbours.keys() - wanted.neighbours.keys())
        ),
        *(route_requests.delete_forwarding(index, *each) for each in sorted(gone)),
        *(route_requests.new_neighbour(index, *each) for each in sorted(added)),
        *(route_requests.new_forwarding(index, *each) for each in sorted(planned - present)),
    ]


class Applier:
    """Brings the links of one instance into the planned state.

    `sent` counts the changes it made.
    """

    def __init__(self, names: Names, channel: Channel) -> None:
        self._names = names
        self._channel = channel
        self.sent = 0

    def links(self) -> dict[str, rt.Link]:
        """All links of this namespace by name."""
        found = map(rt.parse_link, self._channel.dump(*rt.LINKS))
        return {link.name: link for link in found}

    def used_subnets(self) -> list[str]:
        """Subnets that the host has addresses in or routes to, but for the default routes."""
        addresses = [each.address for each in self._addresses()]
        routes = [
            rt.parse_destination(message)
            for query in rt.ROUTES
            for message in self._channel.dump(*query)
        ]
        return sorted({*addresses, *(each for each in routes if each)})

    def ground(self, underlay: str) -> Ground:
        """What the host is like, seen from the address that peers send to.

        Packets may have 1500 bytes while no link has that address.
        """
        indexes = {
            a.index for a in self._addresses() if a.address.partition("/")[0] == underlay
        }
        mtus = (link.mtu for link in self.links().values() if link.index in indexes)
        return Ground(
            underlay_mtu=min(mtus, default=1500),
            filtered=bridges_are_filtered(),
            ipv6=has_ipv6(),
        )

    def apply(
        self, plan: Plan, *, keep_mesh: bool, keep_overlays: bool = False
    ) -> dict[str, rt.Link]:
        """Make it so; returns the links as they are then.

        Args:
            plan: the desired state.
            keep_mesh: leave the mesh's links alone although the plan has none.
            keep_overlays: leave devices of cluster networks alone that the plan has not.

        Raises:
            FailedPrecondition: somebody else's device has the number of one of ours. All
                other devices are made.
        """
        links = self.links()
        changes = [
            *stray_links(self._names, plan, links),
            *link_changes(
                self._names, plan, links, keep_mesh=keep_mesh, keep_overlays=keep_overlays
            ),
        ]
        try:
            changed = self._send(changes)
        except OSError as error:
            clash = number_clash(self._names, plan, links)
            if error.errno != errno.EEXIST or not clash:
                raise
            raise FailedPrecondition(clash) from error
        if changed:
            links = self.links()
        set_sysctls(plan, links)
        # addresses first: routes need them as their source
        self._send(address_changes(plan, links, self._addresses()))
        self._send(port_changes(plan, links))
        for name, entries in plan.entries.items():
            self._send(self._entry_changes(links[name].index, entries))
        if self._names.vxlan in plan.entries:
            self._send(self._route_changes(links[self._names.vxlan].index, plan))
        return links

    def change_entries(self, index: int, old: Entries, new: Entries) -> None:
        """From entries that are known to be there to others, asking nothing."""
        there = set(old.forwarding.items())
        if old.bridged:
            there |= {(mac, "") for mac in old.forwarding}
        self._send(entry_changes(index, new, old.neighbours, there))

    def remove(self) -> None:
        """Delete every link of this instance."""
        owned = [name for name in self.links() if self._names.owns(name)]
        self._channel.apply([link_requests.delete_link(name) for name in owned])

    def _entry_changes(self, index: int, wanted: Entries) -> list[Request]:
        neighbours = {}
        for query in rt.neighbours_of(index):
            for message in self._channel.dump(*query):
                neighbour = rt.parse_neighbour(message)
                if neighbour is not None and neighbour.index == index:
                    neighbours[neighbour.address] = neighbour.mac
        found = map(rt.parse_forwarding, self._channel.dump(*rt.forwarding_of(index)))
        forwarding = [
            (each.mac, each.underlay)
            for each in found
            if each is not None and each.index == index
        ]
        return entry_changes(index, wanted, neighbours, forwarding)

    def _route_changes(self, index: int, plan: Plan) -> list[Request]:
        found = [
            rt.parse_route(message)
            for query in rt.routes_over(index)
            for message in self._channel.dump(*query)
        ]
        routes = {(r.subnet, r.via, r.source) for r in found if r and r.index == index}
        wanted = {(r.subnet, r.via, r.source) for r in plan.routes}
        kept = {subnet for subnet, _, _ in wanted}
        gone = sorted({r[0] for r in routes} - kept)
        return [
            *(route_requests.delete_route(index, subnet) for subnet in gone),
            *(route_requests.new_route(index, *r) for r in sorted(wanted - routes)),
        ]

    def _addresses(self) -> list[rt.Address]:
        return [rt.parse_address(each) for each in self._channel.dump(*rt.ADDRESSES)]

    def _send(self, requests: list[Request]) -> bool:
        if requests:
            shown = [each.what for each in requests[:_SHOWN]]
            _log.debug("network changed", count=len(requests), changes=shown)
            self.sent += len(requests)
            self._channel.apply(requests)
        return bool(requests)
