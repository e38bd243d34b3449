"""A container's own namespace: made, wired to a bridge, held until the runtime is in.

Raw netlink in one thread, about a millisecond. Nothing is mounted: when the last process is
gone and our descriptor closed, the kernel removes namespace and links by itself (deleting a
pair by hand costs 19 ms). Used by `instance`.
"""

import errno
import os
from pathlib import Path

from agent.network import rtnetlink as rt
from agent.network.desired import Endpoint
from agent.network.netlink import Channel
from agent.network.netns import new_namespace

_LOOPBACK = 1
_NO_IPV6 = Path("/proc/sys/net/ipv6/conf/default/disable_ipv6")


class Namespaces:
    """The namespaces of containers that no runtime has joined yet."""

    def __init__(self) -> None:
        self._held: dict[str, int] = {}

    def create(self, container: str) -> Channel:
        """Make a container's namespace with its loopback up; returns a channel into it."""
        with new_namespace() as descriptor:
            self._held[container] = descriptor
            inner = Channel()
            if _NO_IPV6.exists():  # no addresses but those we give; loopback keeps ::1
                _NO_IPV6.write_text("1")
        try:
            inner.apply([rt.set_link("lo", _LOOPBACK)])
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
    outer: Channel, inner: Channel, name: str, bridge: rt.Link, endpoint: Endpoint, netns: int
) -> None:
    """Join a namespace to a bridge and give it address and default route."""
    new = [
        rt.new_veth(name, bridge.index, bridge.mtu, endpoint.mac, netns),
        rt.set_hairpin(name),
    ]
    try:
        outer.apply(new)
    except OSError as error:
        if error.errno != errno.EEXIST:
            raise
        # the link of the address's last owner has not vanished yet
        outer.apply([rt.delete_link(name), *new])
    index = rt.parse_link(inner.get(*rt.link_named("eth0"))).index
    inner.apply(
        [
            rt.set_link("eth0", index),
            rt.new_address(index, endpoint.address, endpoint.prefix_length),
            rt.default_route(index, endpoint.gateway),
        ]
    )
