"""What the agent derives from the host's configuration: directories, names, networks. Pure.

One place, so that several agents on a machine never meet: each name of a kernel object comes
from the instance.
"""

from ipaddress import IPv4Network
from pathlib import Path

import msgspec

from shoal.common.config import HostConfig

LOCAL_SUBNET = "172.29.0.0/16"


class AgentConfig(msgspec.Struct, frozen=True, kw_only=True):
    """Where this agent keeps and calls its things.

    Attributes:
        socket: of the Engine API.
        reading_socket: of what of it only reads (`agent.api.reading`).
        manager_socket: of the manager's half; there while a manager runs here.
        link_prefix: begins the names of its network links.
    """

    host: HostConfig
    local_subnet: str = LOCAL_SUBNET

    @property
    def state(self) -> Path:
        return Path(self.host.state)

    @property
    def run(self) -> Path:
        return Path(self.host.run)

    @property
    def containers(self) -> Path:
        return self.state / "containers"

    @property
    def images(self) -> Path:
        return self.state / "images"

    @property
    def volumes(self) -> Path:
        return self.state / "volumes"

    @property
    def networks(self) -> Path:
        return self.state / "networks"

    @property
    def socket(self) -> Path:
        return self.run / "docker.sock"

    @property
    def reading_socket(self) -> Path:
        return self.run / "docker-readonly.sock"

    @property
    def manager_socket(self) -> Path:
        return self.run / "manager.sock"

    @property
    def cgroup_parent(self) -> str:
        return f"/shoal/{self.host.instance}"

    @property
    def link_prefix(self) -> str:
        return self.host.link_prefix

    @property
    def subnet(self) -> IPv4Network:
        return IPv4Network(self.local_subnet)

    @property
    def gateway(self) -> str:
        return str(self.subnet.network_address + 1)
