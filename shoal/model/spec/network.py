"""What the user asked of a network: the body of `POST /networks/create`."""

from collections.abc import Mapping

from msgspec import field

from shoal.model.names import Wire, always

ENCRYPTED = "encrypted"
MTU = "com.docker.network.driver.mtu"
VXLAN_IDS = "com.docker.network.driver.overlay.vxlanid_list"


HOST = "host"
HOST_NETWORK = "hostnetworkofeverynode000"
"""The id of the one predefined network: each task's node's own. It is not stored."""


class IPAMConfig(Wire, frozen=True, kw_only=True):
    """One subnet. Addresses of tasks come from `IPRange`, if there is one."""

    subnet: str = ""
    ip_range: str = ""
    gateway: str = ""
    auxiliary_addresses: Mapping[str, str] = field(default_factory=dict)


class IPAM(Wire, frozen=True, kw_only=True):
    """Who gives addresses, and out of what."""

    driver: str = always("")
    options: Mapping[str, str] = field(default_factory=dict)
    config: tuple[IPAMConfig, ...] = ()


class NetworkReference(Wire, frozen=True, kw_only=True):
    """A network by its name."""

    network: str = always("")


class NetworkSpec(Wire, frozen=True, kw_only=True):
    """A network as wished. Absent `EnableIPv4` is true; duplicates are always checked for."""

    name: str = always("")
    labels: Mapping[str, str] = always({})
    driver: str = ""
    scope: str = ""
    internal: bool = False
    attachable: bool = False
    ingress: bool = False
    enable_ipv4: bool | None = None
    enable_ipv6: bool = False
    ipam: IPAM = IPAM()
    options: Mapping[str, str] = field(default_factory=dict)
    config_only: bool = False
    config_from: NetworkReference = NetworkReference()
    check_duplicate: bool = False


def is_encrypted(spec: NetworkSpec) -> bool:
    """Whether the option `encrypted` is there and not `false`."""
    return ENCRYPTED in spec.options and spec.options[ENCRYPTED] not in ("false", "0")


def mtu_of(spec: NetworkSpec) -> int:
    """The MTU the user asked for; 0 is what the underlay allows."""
    return int(spec.options.get(MTU, "0") or 0)
