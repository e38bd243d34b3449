"""What a caller asks of the host's network, as plain values that go to disk as they are.

Addresses are text, so that the engine's records and the agent's journal can keep an `Endpoint`,
a `Mesh` or an `IngressPort` as JSON. Pure; used all over this package and by its callers.
"""

from collections.abc import Mapping
from typing import Literal

import msgspec

from shoal.model.assignment import AssignedNetwork, NetworkEndpoint, NetworkService
from shoal.model.ids import NetworkID, NodeID

Protocol = Literal["tcp", "udp", "sctp"]
NetworkName = Literal["bridge", "mesh", "none"]
"""`bridge`: a person's containers; `mesh`: tasks, cluster-wide; `none`: only loopback."""

ANY_ADDRESS = "0.0.0.0"  # noqa: S104 - what Docker calls it; reserving it is the point
DEFAULT_VNI = 4095
DEFAULT_VXLAN_PORT = 4789


class PortBinding(msgspec.Struct, frozen=True, kw_only=True):
    """One published port of a container; `host_port` 0 asks for any free one."""

    protocol: Protocol = "tcp"
    container_port: int
    host_port: int = 0
    host_ip: str = ANY_ADDRESS


class Endpoint(msgspec.Struct, frozen=True, kw_only=True):
    """How a container is attached. The caller keeps it and hands it back to `adopt`.

    Attributes:
        netns_path: for the runtime to join; only good until `release_netns`, never after a
            restart of the agent.
        ports: as asked, with each `host_port` filled in.
    """

    container: str
    network: NetworkName
    address: str = ""
    prefix_length: int = 0
    gateway: str = ""
    mac: str = ""
    ports: tuple[PortBinding, ...] = ()
    netns_path: str = ""


class Peer(msgspec.Struct, frozen=True, kw_only=True):
    """Another host of the cluster: its tasks' subnet and where to send packets for it."""

    node: str
    underlay: str
    subnet: str


class Mesh(msgspec.Struct, frozen=True, kw_only=True):
    """This host's part of the cluster's network, as the managers assign it.

    Attributes:
        subnet: for this host's tasks; its first address is the gateway.
        underlay: this host's own address that peers send to.
    """

    subnet: str
    underlay: str
    peers: tuple[Peer, ...] = ()
    vni: int = DEFAULT_VNI
    udp_port: int = DEFAULT_VXLAN_PORT


class Backend(msgspec.Struct, frozen=True, kw_only=True, order=True):
    """A running task, somewhere in the cluster."""

    address: str
    port: int


class IngressPort(msgspec.Struct, frozen=True, kw_only=True):
    """A service's port, published on every host. Without backends it refuses connections."""

    protocol: Protocol = "tcp"
    published_port: int
    backends: tuple[Backend, ...] = ()


class ClusterNetworks(msgspec.Struct, frozen=True, kw_only=True):
    """The cluster networks that this host has tasks on, complete, as managers assign them.

    What did not change since the last one is the same object, so that comparing is cheap.
    """

    node_id: NodeID
    underlay: str
    networks: Mapping[NetworkID, AssignedNetwork]
    endpoints: Mapping[str, NetworkEndpoint]
    services: Mapping[str, NetworkService]
