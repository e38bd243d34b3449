"""Which cluster networks are here, and what their devices have to know. No I/O.

A network is here while a container is attached to it. `told` takes the managers' newest word
and says what changed for the networks that are here, at a cost that goes by the change, not by
the size of the network; `planned` is the whole of it, for the compare. Used by `instance`.
"""

from collections.abc import Collection, Mapping

import msgspec

from agent.network.desired import Attachment, ClusterNetworks, Interface
from agent.network.endpoints import mac_of
from agent.network.plan import Entries, Overlay
from shoal.model.assignment import AssignedNetwork, NetworkEndpoint
from shoal.model.errors import InvalidArgument, Unavailable
from shoal.model.ids import NetworkID, NodeID, ServiceID

_NOTHING = ClusterNetworks(
    node_id=NodeID(""), underlay="", networks={}, endpoints={}, services={}
)


class Change(msgspec.Struct, frozen=True, kw_only=True):
    """Entries of one network that go and that come, of the endpoints that changed only."""

    vni: int
    gone: Entries
    come: Entries


class _Here:
    """A network that is here: as it was told last, and its remote endpoints by key."""

    def __init__(self, network: AssignedNetwork) -> None:
        self.network = network
        self.remote: dict[str, NetworkEndpoint] = {}


class Overlays:
    """The cluster networks of one host."""

    def __init__(self) -> None:
        self._told = _NOTHING
        self._here: dict[NetworkID, _Here] = {}
        self._destinations: Mapping[NodeID, str] = {}

    @property
    def told(self) -> ClusterNetworks:
        """The managers' newest word."""
        return self._told

    def tell(self, new: ClusterNetworks) -> tuple[bool, list[Change]]:
        """Take a newer word: whether devices themselves change, and the entries that do.

        A network that is told of no more stays as it is while a container is on it.
        """
        old, self._told = self._told, new
        rebuilt = old.underlay != new.underlay and bool(self._here)
        for key, here in self._here.items():
            network = new.networks.get(key)
            if network is None or network is here.network:
                continue
            before = (here.network.vni, here.network.mtu)
            rebuilt = rebuilt or (network.vni, network.mtu) != before
            here.network = network
        return rebuilt, self._changes()

    def arrive(self, network: NetworkID) -> bool:
        """A container joins; whether the network was not here before.

        Raises:
            Unavailable: no manager has told of it.
        """
        if network in self._here:
            return False
        known = self._told.networks.get(network)
        if known is None:
            raise Unavailable(
                f"network {network} is not known on this host yet: no manager has told of it"
            )
        here = self._here[network] = _Here(known)
        here.remote = {
            key: each
            for key, each in self._told.endpoints.items()
            if each.network_id == network and each.node_id != self._told.node_id
        }
        return True

    def keep(self, networks: Collection[str]) -> bool:
        """Forget the networks that no container is on any more; whether there were any."""
        gone = [key for key in self._here if key not in networks]
        for key in gone:
            del self._here[key]
        return bool(gone)

    def planned(self) -> Mapping[NetworkID, Overlay]:
        """The networks that are here, whole."""
        return {
            key: Overlay(
                vni=here.network.vni,
                underlay=self._told.underlay,
                mtu=here.network.mtu,
                entries=self._entries(here, here.remote.values()),
                encrypted=here.network.encrypted,
            )
            for key, here in self._here.items()
        }

    def reach(self, destinations: Mapping[NodeID, str]) -> bool:
        """Where the hosts are inside the tunnel; whether a network here has to know it."""
        changed = destinations != self._destinations
        self._destinations = destinations
        return changed and bool(self.sealed())

    def sealed(self) -> Mapping[NetworkID, str]:
        """The encrypted networks that are here, and their names."""
        return {
            key: here.network.name for key, here in self._here.items() if here.network.encrypted
        }

    def vnis(self) -> Mapping[NetworkID, int]:
        """The networks that are here."""
        return {key: here.network.vni for key, here in self._here.items()}

    def needs_gateway(self, networks: Collection[str], service: ServiceID) -> bool:
        """Whether something on these networks needs the gateway network too.

        It does unless all of them are internal and the service publishes no port.
        """
        known = [self._told.networks.get(NetworkID(each)) for each in networks]
        if not known or any(each is None or not each.internal for each in known):
            return True
        entries = (self._told.services.get(f"{each}/{service}") for each in networks)
        return any(entry is not None and entry.ports for entry in entries)

    def _changes(self) -> list[Change]:
        gone: dict[NetworkID, list[NetworkEndpoint]] = {}
        come: dict[NetworkID, list[NetworkEndpoint]] = {}
        here, told, own = self._here, self._told, self._told.node_id
        for key, each in told.endpoints.items():
            network = here.get(each.network_id)
            if network is None:
                continue
            known = network.remote.get(key)
            if known is each or (each.node_id == own and known is None):
                continue
            if known is not None and known != each:
                gone.setdefault(each.network_id, []).append(known)
                del network.remote[key]
            if each.node_id != own:
                if known is None or known != each:
                    come.setdefault(each.network_id, []).append(each)
                network.remote[key] = each
        for identity, network in here.items():
            if identity not in told.networks:
                continue
            for key in [key for key in network.remote if key not in told.endpoints]:
                gone.setdefault(identity, []).append(network.remote.pop(key))
        return [
            Change(
                vni=here[key].network.vni,
                gone=self._entries(here[key], gone.get(key, ())),
                come=self._entries(here[key], come.get(key, ())),
            )
            for key in {**gone, **come}
        ]

    def _entries(self, here: _Here, endpoints: Collection[NetworkEndpoint]) -> Entries:
        """Nothing leads to the hosts of an encrypted network that have not answered yet."""
        forwarding = {each.mac: each.underlay for each in endpoints}
        if here.network.encrypted:
            inner = self._destinations
            forwarding = {e.mac: inner[e.node_id] for e in endpoints if e.node_id in inner}
        return Entries(
            neighbours={address: each.mac for each in endpoints for address in each.addresses},
            forwarding=forwarding,
            bridged=True,
        )


def member(attachment: Attachment, name: str, link: str) -> Interface:
    """A container's place on a cluster network; managers gave the addresses.

    Raises:
        InvalidArgument: neither an IPv4 address nor a hardware address is given.
    """
    ipv4 = [each.partition("/")[0] for each in attachment.addresses if ":" not in each]
    if not attachment.mac and not ipv4:
        raise InvalidArgument(
            f"network {attachment.network}: an IPv4 address or a hardware address is needed"
        )
    return Interface(
        network=attachment.network,
        name=name,
        link=link,
        addresses=attachment.addresses,
        mac=attachment.mac or mac_of(ipv4[0]),
    )
