"""macvlan and ipvlan: containers' interfaces that stand on a link of the host.

Not every kernel has them, and not every link bears them: `probe` finds out by making one, so
that a network that cannot work is refused when it is created. Used by `instance`.
"""

import errno
from collections.abc import Mapping

from agent.network import link_requests
from agent.network import rtnetlink as rt
from agent.network.local import LocalNetwork
from agent.network.netlink import Channel
from shoal.model.errors import Conflict, FailedPrecondition, InvalidArgument, Unimplemented

_PROBE_MAC = "02:42:00:00:00:01"
_NO_SUCH_KIND = (errno.EOPNOTSUPP, errno.ENODEV, errno.EAFNOSUPPORT)


def child_of(network: LocalNetwork, links: Mapping[str, rt.Link]) -> link_requests.Child:
    """What a container's interface on such a network is made of.

    Raises:
        FailedPrecondition: the host has no such link (any more).
    """
    parent = links.get(network.parent)
    if parent is None:
        raise FailedPrecondition(
            f"network {network.name}: this host has no link {network.parent} to stand on"
        )
    mtu = min(network.mtu, parent.mtu)
    return link_requests.Child(
        kind=network.driver, parent=parent, mode=network.mode, flag=network.flag, mtu=mtu
    )


def probe(
    channel: Channel, name: str, network: LocalNetwork, links: Mapping[str, rt.Link]
) -> None:
    """Make one on the host and delete it; `name` is free for that.

    Raises:
        InvalidArgument: the host has no such link, or one that bears none.
        Unimplemented: the kernel has no such devices.
        Conflict: the link bears devices of the other kind, or is somebody's bridge port.
    """
    if network.parent not in links:
        raise InvalidArgument(
            f"parent {network.parent!r}: this host has no such link", field="Options.parent"
        )
    try:
        channel.apply([link_requests.new_child(name, child_of(network, links), _PROBE_MAC)])
    except OSError as error:
        if error.errno in _NO_SUCH_KIND:
            raise Unimplemented(
                f"the kernel of this host has no {network.driver}: load its module, or use a"
                " bridge network"
            ) from error
        if error.errno == errno.EBUSY:
            raise Conflict(
                f"parent {network.parent} cannot bear {network.driver}: it bears devices of"
                " another kind, or is a port of a bridge"
            ) from error
        if error.errno == errno.EINVAL:
            raise InvalidArgument(
                f"parent {network.parent} cannot bear {network.driver} in mode {network.mode}",
                field="Options.parent",
            ) from error
        raise
    finally:
        channel.apply([link_requests.delete_link(name)])
