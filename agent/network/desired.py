"""What a caller asks of the host's network, as plain values that go to disk as they are.

Addresses are text, so that the engine's records and the agent's journal can keep an `Endpoint`,
a `Mesh` or an `IngressPort` as JSON. Pure; used all over this package and by its callers.
"""

from collections.abc import Mapping
from typing import Literal

import msgspec

from shoal.model.assignment import AssignedNetwork, NetworkEndpoint, NetworkService
from shoal.model.ids import NetworkID, NodeID, ServiceID
from shoal.model.objects import TunnelKey

Protocol = Literal["tcp", "udp", "sctp"]
NetworkName = Literal["bridge", "mesh", "none"]
"""`bridge`: a person's containers; `mesh`: tasks, cluster-wide; `none`: only loopback."""

BRIDGE, MESH = "bridge", "mesh"
"""The host's own networks; any other name of a network is the id of a cluster network."""

ANY_ADDRESS = "0.0.0.0"  # noqa: S104 - what Docker calls it; reserving it is the point
ANY_ADDRESS6 = "::"
DEFAULT_VNI = 4095
DEFAULT_VXLAN_PORT = 4789


class PortBinding(msgspec.Struct, frozen=True, kw_only=True):
    """One published port of a container; `host_port` 0 asks for any free one.

    With `last_host_port` it asks for the first free one from `host_port` to that.
    On `ANY_ADDRESS` it is published on all addresses of both families, on `ANY_ADDRESS6` on all
    IPv6 ones.
    """

    protocol: Protocol = "tcp"
    container_port: int
    host_port: int = 0
    last_host_port: int = 0
    host_ip: str = ANY_ADDRESS

    @property
    def families(self) -> tuple[int, ...]:
        """4, 6 or both."""
        if self.host_ip == ANY_ADDRESS:
            return (4, 6)
        return (6,) if ":" in self.host_ip else (4,)


class Attachment(msgspec.Struct, frozen=True, kw_only=True):
    """A network that a container is to join.

    Attributes:
        network: `bridge`, `mesh` (the gateway network), or the id of a cluster network.
        addresses: with prefix length, as a manager gave them; the host's own networks give
            their own.
        mac: empty is one that follows from the first address.
        aliases: other names of the container there.
        link_local: addresses besides, with prefix length, that nobody keeps count of.
        service: of a task's `mesh`: where all its other networks are internal it is left out,
            unless this service publishes a port. Empty: it is never left out.
    """

    network: str
    addresses: tuple[str, ...] = ()
    mac: str = ""
    aliases: tuple[str, ...] = ()
    link_local: tuple[str, ...] = ()
    service: ServiceID = ServiceID("")


class Interface(msgspec.Struct, frozen=True, kw_only=True):
    """A container's place on one network.

    Attributes:
        name: of the interface in the container.
        link: of its other end, on the host.
        addresses: with prefix length, the IPv4 one first; at most one of each family.
        link_local: other addresses of it, which mean nothing outside of the network.
        gateways: by which the container reaches the rest of the world, at most one of each
            family; none but on the one interface that leads out.
    """

    network: str
    name: str = "eth0"
    link: str = ""
    addresses: tuple[str, ...] = ()
    gateways: tuple[str, ...] = ()
    mac: str = ""
    link_local: tuple[str, ...] = ()

    @property
    def ipv4(self) -> str:
        """Its IPv4 address without prefix length; empty without one."""
        return next((a.partition("/")[0] for a in self.addresses if ":" not in a), "")

    @property
    def ipv6(self) -> str:
        """Its IPv6 address without prefix length; empty without one."""
        return next((a.partition("/")[0] for a in self.addresses if ":" in a), "")

    @property
    def prefix_length(self) -> int:
        """That of its IPv4 address."""
        return next((int(a.partition("/")[2]) for a in self.addresses if ":" not in a), 0)

    @property
    def prefix_length6(self) -> int:
        """That of its IPv6 address."""
        return next((int(a.partition("/")[2]) for a in self.addresses if ":" in a), 0)

    @property
    def gateway(self) -> str:
        """The IPv4 gateway; empty without one."""
        return next((each for each in self.gateways if ":" not in each), "")


NOWHERE = Interface(network="none", name="")


class Endpoint(msgspec.Struct, frozen=True, kw_only=True):
    """How a container is attached. The caller keeps it and hands it back to `adopt`.

    Attributes:
        interfaces: in the order of their names; none beside loopback without a network.
        netns_path: for the runtime to join; only good until `release_netns`, never after a
            restart of the agent.
        ports: as asked, with each `host_port` filled in.
        name_servers: for names that none of its networks has, in place of the host's.
    """

    container: str
    interfaces: tuple[Interface, ...] = ()
    ports: tuple[PortBinding, ...] = ()
    netns_path: str = ""
    name_servers: tuple[str, ...] = ()

    @property
    def named_networks(self) -> tuple[str, ...]:
        """Its networks in which containers have names, in the order they are asked."""
        networks = (each.network for each in self.interfaces)
        return tuple(each for each in networks if each not in (BRIDGE, MESH))

    @property
    def outward(self) -> Interface:
        """The interface that leads out and has the published ports; `NOWHERE` without one."""
        return next((each for each in self.interfaces if each.gateways), NOWHERE)

    @property
    def first(self) -> Interface:
        """What the container calls its own address: that on its first network."""
        return self.interfaces[0] if self.interfaces else NOWHERE

    @property
    def own_addresses(self) -> tuple[str, ...]:
        """What its own name means to it: not the gateway network's, if there is another."""
        others = [each for each in self.interfaces if each.network != MESH]
        found = (a for i in others or self.interfaces for a in (i.ipv4, i.ipv6))
        return tuple(each for each in found if each)

    def on(self, network: str) -> Interface | None:
        """Its interface on a network, if it is there."""
        return next((each for each in self.interfaces if each.network == network), None)


class Peer(msgspec.Struct, frozen=True, kw_only=True):
    """Another host of the cluster: its tasks' subnet and where to send packets for it.

    `tunnel`: its keys for encrypted networks, oldest first; none while it has no such network.
    """

    node: str
    underlay: str
    subnet: str
    tunnel: tuple[TunnelKey, ...] = ()


class Mesh(msgspec.Struct, frozen=True, kw_only=True):
    """This host's part of the cluster's network, as the managers assign it.

    Attributes:
        subnet: for this host's tasks; its first address is the gateway.
        underlay: this host's own address that peers send to.
        prefix6: the cluster's IPv6 /96; the IPv6 address of anything in the mesh is this with
            its IPv4 address in the last 32 bits. Empty: there is no IPv6.
    """

    subnet: str
    underlay: str
    peers: tuple[Peer, ...] = ()
    prefix6: str = ""
    vni: int = DEFAULT_VNI
    udp_port: int = DEFAULT_VXLAN_PORT


class Backend(msgspec.Struct, frozen=True, kw_only=True, order=True):
    """A running task, somewhere in the cluster."""

    address: str
    port: int


class IngressPort(msgspec.Struct, frozen=True, kw_only=True):
    """A service's port, published on every host. Without backends it refuses connections.

    A host prefers its own tasks; with `local_only` it leads to no others.
    """

    protocol: Protocol = "tcp"
    published_port: int
    backends: tuple[Backend, ...] = ()
    local_only: bool = False


class ClusterNetworks(msgspec.Struct, frozen=True, kw_only=True):
    """The cluster networks that this host has tasks on, complete, as managers assign them.

    What did not change since the last one is the same object, so that comparing is cheap.
    """

    node_id: NodeID
    underlay: str
    networks: Mapping[NetworkID, AssignedNetwork]
    endpoints: Mapping[str, NetworkEndpoint]
    services: Mapping[str, NetworkService]
