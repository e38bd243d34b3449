"""The assignments' words for mesh, networks and published ports, said in the host network's.

The seam `agent.worker.ClusterNetwork`, implemented on `agent.network.host_network.HostNetwork`.
"""

from collections.abc import Sequence
from typing import Protocol, cast

from agent.network import desired
from shoal.model.assignment import Assignments, IngressSet, MeshPart
from shoal.model.ids import NodeID


class Wires(Protocol):
    """What is used of the host's network."""

    async def set_mesh(self, mesh: desired.Mesh | None) -> None: ...

    async def set_networks(self, networks: desired.ClusterNetworks) -> None: ...

    async def set_ingress(self, entries: Sequence[desired.IngressPort]) -> None: ...


class HostClusterNetwork:
    """This host's part; `underlay` is the address that its peers send to."""

    def __init__(self, wires: Wires, underlay: str, node: NodeID) -> None:
        self._wires = wires
        self._underlay = underlay
        self._node = node

    async def set_mesh(self, mesh: MeshPart) -> None:
        """Join the mesh as told; an empty subnet is no mesh."""
        await self._wires.set_mesh(mesh_of(mesh, self._underlay))

    async def set_networks(self, told: Assignments) -> None:
        """Have the cluster networks of the containers here as told; the kernel is so then."""
        await self._wires.set_networks(
            desired.ClusterNetworks(
                node_id=self._node,
                underlay=self._underlay,
                networks=told.networks,
                endpoints=told.endpoints,
                services=told.services,
            )
        )

    async def set_ingress(self, ingress: IngressSet) -> None:
        """Publish exactly these ports; managers are told of those that are taken here."""
        await self._wires.set_ingress(ingress_of(ingress))


def mesh_of(mesh: MeshPart, underlay: str) -> desired.Mesh | None:
    """The mesh as the host's network takes it."""
    if not mesh.subnet:
        return None
    return desired.Mesh(
        subnet=mesh.subnet,
        underlay=underlay,
        peers=tuple(
            desired.Peer(
                node=peer.node_id,
                underlay=peer.address,
                subnet=peer.subnet,
                tunnel=peer.tunnel,
            )
            for peer in mesh.peers
        ),
        udp_port=mesh.port,
        prefix6=mesh.prefix6,
    )


def ingress_of(ingress: IngressSet) -> tuple[desired.IngressPort, ...]:
    """Published ports as the host's network takes them."""
    return tuple(
        desired.IngressPort(
            protocol=cast("desired.Protocol", port.protocol),
            published_port=port.published,
            backends=tuple(
                desired.Backend(address=backend.address, port=backend.port)
                for backend in port.backends
            ),
            local_only=port.local_only,
        )
        for port in ingress.ports
    )
