"""Who is attached where, in memory: endpoints, and the addresses that are theirs. No kernel.

The callers' records restore it by `adopt`. Used by `instance`, which makes the kernel so.
"""

import zlib
from collections.abc import Sequence

from msgspec.structs import replace

from agent.network.desired import BRIDGE, MESH, Attachment, Endpoint, Interface, PortBinding
from agent.network.overlays import Overlays, member
from agent.network.plan import Names
from agent.network.subnets import HostSubnets
from shoal.model.errors import AlreadyExists, NotFound
from shoal.model.ids import NetworkID


class Attached:
    """The endpoints of one host, and what of its subnets and networks they use."""

    def __init__(self, names: Names, subnets: HostSubnets, overlays: Overlays) -> None:
        self._names = names
        self._subnets = subnets
        self._overlays = overlays
        self._endpoints: dict[str, Endpoint] = {}

    def all(self) -> Sequence[Endpoint]:
        """Every endpoint."""
        return tuple(self._endpoints.values())

    def get(self, container: str) -> Endpoint:
        """How a container is attached.

        Raises:
            NotFound: it is not.
        """
        endpoint = self._endpoints.get(container)
        if endpoint is None:
            raise NotFound(f"container {container} is attached to no network")
        return endpoint

    def networks(self) -> set[str]:
        """The networks that containers are on."""
        return {each.network for e in self._endpoints.values() for each in e.interfaces}

    def adopt(self, endpoint: Endpoint) -> bool:
        """Take one from the records; False if it is known."""
        if endpoint.container in self._endpoints:
            return False
        interfaces = tuple(
            each
            if each.link or each.network not in (BRIDGE, MESH)  # records of an older agent
            else replace(each, link=self._names.veth(each.ipv4))
            for each in endpoint.interfaces
        )
        for each in interfaces:
            self._subnets.take(endpoint.container, each)
            if each.network in self._overlays.told.networks:
                self._overlays.arrive(NetworkID(each.network))
        self._endpoints[endpoint.container] = replace(
            endpoint, netns_path="", interfaces=interfaces
        )
        return True

    def begin(self, container: str, name_servers: Sequence[str]) -> None:
        """A container that is on no network yet.

        Raises:
            AlreadyExists: it is attached.
        """
        if container in self._endpoints:
            raise AlreadyExists(f"container {container} is already attached to a network")
        self._endpoints[container] = Endpoint(
            container=container, name_servers=tuple(name_servers)
        )

    def place(self, container: str, attachment: Attachment) -> bool:
        """Give a container a place on a network; whether the network was not here before."""
        endpoint = self._endpoints[container]
        used = {each.name for each in endpoint.interfaces}
        name = next(n for n in map("eth{}".format, range(len(used) + 1)) if n not in used)
        fresh = False
        if attachment.network in (BRIDGE, MESH) or self._subnets.find_local(attachment.network):
            given = self._subnets.give(container, attachment)
            gateways = given.gateways if not endpoint.outward.gateways else ()
            interface = replace(given, name=name, gateways=gateways)
        else:
            fresh = self._overlays.arrive(NetworkID(attachment.network))
            link = self._free_link(f"{container}/{attachment.network}")
            interface = member(attachment, name, link)
        interface = replace(interface, link_local=attachment.link_local)
        interfaces = (*endpoint.interfaces, interface)
        self._endpoints[container] = replace(endpoint, interfaces=interfaces)
        return fresh

    def publish(self, container: str, held: PortBinding) -> None:
        """A port of the container is held."""
        endpoint = self._endpoints[container]
        self._endpoints[container] = replace(endpoint, ports=(*endpoint.ports, held))

    def leave(self, container: str, network: str) -> None:
        """It is on that network no more; its addresses are free."""
        endpoint = self._endpoints[container]
        for each in endpoint.interfaces:
            if each.network == network:
                self._subnets.free(each)
        left = tuple(each for each in endpoint.interfaces if each.network != network)
        self._endpoints[container] = replace(endpoint, interfaces=left)

    def lead_out(self, container: str) -> Interface | None:
        """The first of its networks that leads out does so from now on; None without one."""
        endpoint = self._endpoints[container]
        for each in endpoint.interfaces:
            gateways = self._subnets.gateways(each.network)
            if gateways:
                leading = replace(each, gateways=gateways)
                interfaces = tuple(
                    leading if one is each else one for one in endpoint.interfaces
                )
                self._endpoints[container] = replace(endpoint, interfaces=interfaces)
                return leading
        return None

    def drop(self, container: str) -> Endpoint | None:
        """The container is gone; its addresses are kept until `free`. None: it was not here."""
        return self._endpoints.pop(container, None)

    def free(self, endpoint: Endpoint) -> None:
        """Give back the addresses of one that is gone."""
        for each in endpoint.interfaces:
            self._subnets.free(each)

    def needed(self, attachments: Sequence[Attachment]) -> list[Attachment]:
        """Without the gateway network where nothing would use it."""
        others = [each.network for each in attachments if each.network != MESH]
        return [
            each
            for each in attachments
            if not (each.network == MESH and each.service)
            or self._overlays.needs_gateway(others, each.service)
        ]

    def clear(self) -> None:
        """Nobody is attached; addresses are of no interest any more."""
        self._endpoints.clear()

    def _free_link(self, seed: str) -> str:
        used = {each.link for e in self._endpoints.values() for each in e.interfaces}
        number = zlib.crc32(seed.encode())
        while (link := self._names.link(number)) in used:
            number += 1
        return link
