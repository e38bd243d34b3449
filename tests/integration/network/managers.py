"""What managers would tell hosts of cluster networks, kept by hand."""

from msgspec.structs import replace

from agent.network.desired import Attachment, ClusterNetworks, Endpoint
from agent.network.host_network import HostNetwork
from shoal.model.assignment import AssignedNetwork, NetworkEndpoint, NetworkService, Subnet
from shoal.model.ids import NetworkID, NodeID, TaskID
from tests.integration.network.lab import ADDRESSES


class Managers:
    """Networks of one subnet: `red`, `blue`, `inner` (internal), `secret` (encrypted)."""

    def __init__(self, hosts: dict[str, HostNetwork]) -> None:
        self._hosts = hosts
        self.networks: dict[NetworkID, AssignedNetwork] = {}
        for vni, name in enumerate(("red", "blue", "inner", "secret"), 4097):
            subnets = (Subnet(subnet="10.50.0.0/16"), Subnet(subnet="fd50::/64"))
            network = AssignedNetwork(
                id=NetworkID(name),
                name=name,
                vni=vni,
                subnets=subnets,
                internal=name == "inner",
                encrypted=name == "secret",
            )
            self.networks[network.id] = network
        self.endpoints: dict[str, NetworkEndpoint] = {}
        self.services: dict[str, NetworkService] = {}

    def told(self, host: str) -> ClusterNetworks:
        return ClusterNetworks(
            node_id=NodeID(host),
            underlay=ADDRESSES[host],
            networks=dict(self.networks),
            endpoints=dict(self.endpoints),
            services=dict(self.services),
        )

    async def tell(self) -> None:
        for host, each in self._hosts.items():
            await each.set_networks(self.told(host))

    def change(self, network: str, **fields: int) -> None:
        key = NetworkID(network)
        self.networks[key] = replace(self.networks[key], **fields)

    def place(self, task: str, network: str, host: str, number: int) -> NetworkEndpoint:
        """Give a task its addresses."""
        made = NetworkEndpoint(
            network_id=NetworkID(network),
            task_id=TaskID(task),
            node_id=NodeID(host),
            underlay=ADDRESSES[host],
            addresses=(f"10.50.{number >> 8}.{number & 255}", f"fd50::{number:x}"),
            mac=f"02:42:0a:32:{number >> 8:02x}:{number & 255:02x}",
            names=(task,),
        )
        self.endpoints[made.key] = made
        return made

    def attachment(self, task: str, network: str) -> Attachment:
        made = self.endpoints[f"{network}/{task}"]
        first, second = made.addresses
        return Attachment(
            network=network, addresses=(f"{first}/16", f"{second}/64"), mac=made.mac
        )

    async def run(
        self, task: str, host: str, number: int, *networks: str, gateway: bool = True
    ) -> Endpoint:
        """Have a task run, as an agent does: told of first, then attached."""
        for network in networks:
            self.place(task, network, host, number)
        await self.tell()
        attachments = [self.attachment(task, network) for network in networks]
        if gateway:
            attachments.append(Attachment(network="mesh"))
        return await self._hosts[host].attach(task, attachments)

    async def end(self, task: str, host: str) -> None:
        await self._hosts[host].release_netns(task)
        await self._hosts[host].detach(task)
        for key in [key for key in self.endpoints if key.endswith(f"/{task}")]:
            del self.endpoints[key]
        await self.tell()
