"""A container's own namespace: made, wired to bridges, held until the runtime is in.

Raw netlink in one thread, about a millisecond. Nothing is mounted: when the last process is
gone and our descriptor closed, the kernel removes namespace and links by itself (deleting a
pair by hand costs 19 ms). Used by `instance`.
"""

import contextlib
import errno
import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from agent.network import link_requests, route_requests
from agent.network import rtnetlink as rt
from agent.network.desired import Interface
from agent.network.netlink import Channel
from agent.network.netns import new_namespace, visiting
from agent.network.plan import Port

_LOOPBACK = 1
_IPV6 = Path("/proc/sys/net/ipv6/conf")


class Namespaces:
    """The namespaces of containers that no runtime has joined yet."""

    def __init__(self) -> None:
        self._held: dict[str, int] = {}

    def create(self, container: str) -> Channel:
        """Make a container's namespace with its loopback up; returns a channel into it."""
        with new_namespace() as descriptor:
            self._held[container] = descriptor
            inner = Channel()
            if _IPV6.exists():  # no addresses but those we give; loopback keeps ::1
                (_IPV6 / "default/disable_ipv6").write_text("1")
        try:
            inner.apply([link_requests.set_link("lo", _LOOPBACK)])
        except BaseException:
            inner.close()
            raise
        return inner

    def descriptor(self, container: str) -> int:
        """The descriptor of a namespace that `create` made."""
        return self._held[container]

    def path(self, container: str) -> str:
        """For another process to open, as long as it is held."""
        return f"/proc/{os.getpid()}/fd/{self._held[container]}"

    def release(self, container: str) -> None:
        """Let go; not held is no error."""
        descriptor = self._held.pop(container, None)
        if descriptor is not None:
            os.close(descriptor)

    def close(self) -> None:
        """Let go of all."""
        for container in list(self._held):
            self.release(container)


def wire(
    outer: Channel,
    inner: Channel,
    netns: int,
    interfaces: Sequence[Interface],
    ports: Mapping[str, Port],
    bridges: Mapping[str, rt.Link],
    children: Mapping[str, link_requests.Child],
) -> None:
    """Join a namespace to networks and give its interfaces their addresses and routes.

    Args:
        outer: into the host's namespace.
        inner: into the container's.
        netns: the container's namespace.
        interfaces: to make.
        ports: where the host's end of each belongs, by its name.
        bridges: as they are, by name.
        children: what stands on a link of the host instead of a bridge, by network.
    """
    for each in interfaces:
        if not each.link:
            outer.apply(
                [link_requests.new_child(each.name, children[each.network], each.mac, netns)]
            )
            continue
        port = ports[each.link]
        new = [
            link_requests.new_veth(each.link, bridges[port.bridge], each.name, each.mac, netns),
            link_requests.set_flags(each.link, port.flags),
        ]
        try:
            outer.apply(new)
        except OSError as error:
            if error.errno != errno.EEXIST:
                raise
            # the link of the address's last owner has not vanished yet
            outer.apply([link_requests.delete_link(each.link), *new])
    speaking6 = [
        each.name for each in interfaces if each.ipv6 or any(":" in a for a in each.link_local)
    ]
    if speaking6:
        _enable_ipv6(netns, speaking6)
    for each in interfaces:
        index = rt.parse_link(inner.get(*rt.link_named(each.name))).index
        inner.apply(
            [
                link_requests.set_link(each.name, index),
                *(
                    route_requests.new_address(index, address)
                    for address in (*each.addresses, *each.link_local)
                ),
                *(route_requests.default_route(index, gateway) for gateway in each.gateways),
            ]
        )


def lead_out(inner: Channel, interface: Interface) -> None:
    """Give a namespace its default routes, where it has lost them."""
    index = rt.parse_link(inner.get(*rt.link_named(interface.name))).index
    inner.apply(
        [route_requests.default_route(index, gateway) for gateway in interface.gateways]
    )


def _enable_ipv6(netns: int, interfaces: Sequence[str]) -> None:
    """No address but those given: none of the link, none by routers."""
    with visiting(netns):
        for name in interfaces:
            for switch, value in (("addr_gen_mode", "1"), ("accept_ra", "0")):
                (_IPV6 / name / switch).write_text(value)
            (_IPV6 / name / "disable_ipv6").write_text("0")


@contextlib.contextmanager
def opened(path: str) -> Iterator[tuple[Channel, int]]:
    """A channel into a namespace, and the namespace."""
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        with visiting(descriptor):
            inner = Channel()
        with contextlib.closing(inner):
            yield inner, descriptor
    finally:
        os.close(descriptor)
