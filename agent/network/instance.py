"""One host's network, synchronously: what is desired, and every step that makes it so.

All of it runs in the one thread of `host_network`, one call after another, so no call sees
another's halves. Desired state is kept here in memory only; the caller's records restore it by
`adopt`. Links go by `apply`, rules by `nftables` and `nft`, containers by `wiring`.
"""

from collections.abc import Iterable, Mapping, Sequence
from ipaddress import IPv4Address, IPv4Network

import msgspec
import structlog

from agent.network import rtnetlink as rt
from agent.network.apply import Applier
from agent.network.conntrack import forget_stale
from agent.network.desired import (
    Endpoint,
    IngressPort,
    Mesh,
    NetworkName,
    PortBinding,
    Protocol,
)
from agent.network.endpoints import AddressPool, mac_of
from agent.network.netlink import NETLINK_NETFILTER, Channel
from agent.network.nft import Nft
from agent.network.nftables import Ruleset, difference, make_ruleset, replacement
from agent.network.plan import Names, check_mesh, make_plan
from agent.network.ports import HeldPorts
from agent.network.watching import Watch
from agent.network.wiring import Namespaces, wire
from shoal.model.errors import (
    AlreadyExists,
    ClusterError,
    FailedPrecondition,
    InvalidArgument,
)

_log = structlog.get_logger(__name__)
_UdpTargets = Mapping[int, frozenset[tuple[str, int]]]
_Ingress = tuple[Protocol, int]


class Instance:
    """The kernel objects of one instance and what they should be."""

    def __init__(self, names: Names, local_subnet: IPv4Network) -> None:
        self._names = names
        self._local_subnet = local_subnet
        self._channel = Channel()
        self._applier = Applier(names, self._channel)
        self._nft = Nft()
        self._watch = Watch(names)
        self._flows = Channel(NETLINK_NETFILTER)
        self._held = HeldPorts()
        self._namespaces = Namespaces()
        self._endpoints: dict[str, Endpoint] = {}
        self._local_pool = AddressPool(local_subnet)
        self._mesh_pool: AddressPool | None = None
        self._mesh: Mesh | None = None
        self._ingress: dict[_Ingress, IngressPort] = {}
        self._unheld: dict[PortBinding, str] = {}
        self._links: dict[str, rt.Link] = {}
        self._ruleset: Ruleset | None = None
        self._settled = False

    def filenos(self) -> tuple[int, int]:
        """Descriptors that become readable when somebody changed something."""
        return self._watch.filenos()

    def begin(self) -> None:
        """Settle at once on a clean host, else leave all as it is until `adopt`."""
        if self._settled:
            self.repair()
            return
        left = any(self._names.owns(name) for name in self._applier.links())
        if not left and self._nft.chains(self._names.table) is None:
            self.adopt(())

    def adopt(self, endpoints: Sequence[Endpoint]) -> None:
        """Take these as all that exist, sweep the rest."""
        for each in endpoints:
            if each.container not in self._endpoints:
                self._adopt_one(msgspec.structs.replace(each, netns_path=""))
        self._settled = True
        self._apply_links()
        self._apply_rules()

    def _adopt_one(self, endpoint: Endpoint) -> None:
        if endpoint.address:
            pool = self._pool_of(endpoint)
            address = IPv4Address(endpoint.address)
            if pool is not None and not pool.take(endpoint.container, address):
                raise FailedPrecondition(
                    f"address {endpoint.address} of container {endpoint.container} is "
                    f"another's or not in {pool.subnet}"
                )
        self._endpoints[endpoint.container] = endpoint
        for binding in endpoint.ports:
            self._hold_or_remember(binding)

    def attach(
        self, container: str, network: NetworkName, ports: Sequence[PortBinding]
    ) -> Endpoint:
        """Make a container's namespace and join it; all or nothing."""
        self._require_settled()
        if container in self._endpoints:
            raise AlreadyExists(f"container {container} is already attached to a network")
        if network == "none" and ports:
            raise InvalidArgument("a container without network cannot publish ports")
        endpoint = self._new_endpoint(container, network)
        self._endpoints[container] = endpoint
        try:
            for binding in ports:
                held = self._held.hold(binding)
                endpoint = msgspec.structs.replace(endpoint, ports=(*endpoint.ports, held))
                self._endpoints[container] = endpoint
            self._wire(endpoint)
            if ports:
                self._apply_rules()
        except BaseException:
            self.detach(container)
            raise
        path = self._namespaces.path(container)
        return msgspec.structs.replace(endpoint, netns_path=path)

    def _new_endpoint(self, container: str, network: NetworkName) -> Endpoint:
        if network == "none":
            return Endpoint(container=container, network=network)
        pool = self._local_pool if network == "bridge" else self._mesh_pool
        if pool is None:
            raise FailedPrecondition(
                "this host has no subnet for service tasks yet: no manager has assigned one"
            )
        address = pool.allocate(container)
        return Endpoint(
            container=container,
            network=network,
            address=str(address),
            prefix_length=pool.subnet.prefixlen,
            gateway=str(pool.gateway),
            mac=mac_of(address),
        )

    def _wire(self, endpoint: Endpoint) -> None:
        inner = self._namespaces.create(endpoint.container)
        try:
            if endpoint.network == "none":
                return
            try:
                self._join(endpoint, inner)
            except OSError:
                self._apply_links()  # somebody deleted the bridge
                self._join(endpoint, inner)
        finally:
            inner.close()

    def _join(self, endpoint: Endpoint, inner: Channel) -> None:
        wire(
            self._channel,
            inner,
            self._names.veth(endpoint.address),
            self._links[self._bridge_of(endpoint)],
            endpoint,
            self._namespaces.descriptor(endpoint.container),
        )

    def release_netns(self, container: str) -> None:
        """Let the container's namespace live by its processes alone."""
        self._namespaces.release(container)

    def detach(self, container: str) -> None:
        """Give back address and ports; the link vanishes with the namespace."""
        self._namespaces.release(container)
        endpoint = self._endpoints.pop(container, None)
        if endpoint is None:
            return
        if endpoint.ports:
            self._apply_rules()
            for binding in endpoint.ports:
                self._release(binding)
        pool = self._pool_of(endpoint)
        if endpoint.address and pool is not None:
            pool.free(IPv4Address(endpoint.address))

    def set_mesh(self, mesh: Mesh | None) -> None:
        """Take part in a cluster's network, or no longer."""
        if mesh is not None:
            check_mesh(mesh, self._local_subnet)
        old = self._mesh_pool.subnet if self._mesh_pool is not None else None
        new = IPv4Network(mesh.subnet) if mesh is not None else None
        if old != new:
            self._change_mesh_subnet(new)
        self._mesh = mesh
        if self._settled:
            self._apply_links()
            self._apply_rules()

    def _change_mesh_subnet(self, new: IPv4Network | None) -> None:
        attached = [e for e in self._endpoints.values() if e.network == "mesh"]
        strangers = [e for e in attached if new is None or IPv4Address(e.address) not in new]
        if strangers:
            names = ", ".join(sorted(each.container for each in strangers))
            raise FailedPrecondition(
                f"the subnet for service tasks cannot change to {new} while these are "
                f"attached to the old one: {names}"
            )
        self._mesh_pool = AddressPool(new) if new is not None else None
        for each in attached:
            if self._mesh_pool is not None:
                self._mesh_pool.take(each.container, IPv4Address(each.address))

    def set_ingress(self, entries: Sequence[IngressPort]) -> list[str]:
        """Replace the whole set; returns a sentence for each port that could not be taken."""
        wanted: dict[_Ingress, IngressPort] = {}
        wanted |= {(each.protocol, each.published_port): each for each in entries}
        if len(wanted) != len(entries):
            raise InvalidArgument("an ingress port is given twice", field="entries")
        gone = [key for key in self._ingress if key not in wanted]
        added = [key for key in wanted if key not in self._ingress]
        self._ingress = wanted
        for key in added:
            self._hold_or_remember(_ingress_binding(key))
        if self._settled:
            self._apply_rules()
        for key in gone:
            self._release(_ingress_binding(key))
        mine = {_ingress_binding(key) for key in wanted}
        return [reason for binding, reason in self._unheld.items() if binding in mine]

    def repair(self) -> None:
        """Compare everything and put right what differs."""
        if not self._settled:
            return
        self._apply_links()
        for binding in list(self._unheld):
            self._hold_or_remember(binding)
        self._apply_rules()

    def listing(self) -> str:
        """Our table as nftables shows it."""
        return self._nft.listing(self._names.table)

    def destroy(self) -> None:
        """Remove every kernel object of this instance."""
        self._namespaces.close()
        self._held.close()
        self._nft.apply(
            f"add table inet {self._names.table}\ndelete table inet {self._names.table}\n"
        )
        self._applier.remove()
        self._endpoints.clear()
        self._ingress.clear()
        self._settled = False

    def close(self) -> None:
        """Close all descriptors; the kernel's state stays."""
        self._namespaces.close()
        self._held.close()
        self._watch.close()
        self._flows.close()
        self._nft.close()
        self._channel.close()

    def _apply_links(self) -> None:
        mtu = self._applier.underlay_mtu(self._mesh.underlay) if self._mesh else 1500
        plan = make_plan(
            self._names, self._local_subnet, self._mesh, self._endpoints.values(), mtu
        )
        keep = any(each.network == "mesh" for each in self._endpoints.values())
        self._links = self._applier.apply(plan, keep_mesh=keep)
        self._watch.links_changed()  # our own doing

    def _apply_rules(self) -> None:
        new = make_ruleset(
            self._names,
            self._local_subnet,
            self._mesh,
            self._endpoints.values(),
            self._held_ingress(),
        )
        old = self._ruleset
        before = self._watch.generation()
        if self._watch.rules_changed():
            self._ruleset = None
        if self._ruleset is None:
            text = replacement(new, self._nft.chains(self._names.table) or ())
        else:
            text = difference(self._ruleset, new)
        if not text:
            return
        self._ruleset = None  # unknown, should this fail
        self._nft.apply(text)
        self._watch.rules_changed()  # our own doing
        if self._watch.generation() == before + 1:
            self._ruleset = new
        self._forget_flows(old.udp_targets if old is not None else {}, new.udp_targets)
        # else: somebody changed rules meanwhile, perhaps ours: the next pass replaces all

    def _forget_flows(self, old: _UdpTargets, new: _UdpTargets) -> None:
        """UDP flows to ports that changed go to their new backends."""
        changed = {port for port, _ in old.items() ^ new.items()}
        if changed:
            forget_stale(self._flows, {port: new.get(port, frozenset()) for port in changed})

    def _held_ingress(self) -> Iterable[IngressPort]:
        return [
            entry
            for key, entry in self._ingress.items()
            if _ingress_binding(key) not in self._unheld
        ]

    def _hold_or_remember(self, binding: PortBinding) -> None:
        """Hold a port that is published in any case; try again at each repair."""
        try:
            self._held.hold(binding)
        except ClusterError as error:
            if binding not in self._unheld:
                _log.warning("published port not reserved", reason=str(error))
            self._unheld[binding] = str(error)
        else:
            self._unheld.pop(binding, None)

    def _release(self, binding: PortBinding) -> None:
        """Let go of a port, unless it was never ours but another's of the same number."""
        if self._unheld.pop(binding, None) is None:
            self._held.release(binding)

    def _require_settled(self) -> None:
        if not self._settled:
            raise FailedPrecondition(
                "the host's network is not ready: what an earlier run left must be adopted"
            )

    def _pool_of(self, endpoint: Endpoint) -> AddressPool | None:
        return self._mesh_pool if endpoint.network == "mesh" else self._local_pool

    def _bridge_of(self, endpoint: Endpoint) -> str:
        if endpoint.network == "mesh":
            return self._names.mesh_bridge
        return self._names.local_bridge


def _ingress_binding(key: _Ingress) -> PortBinding:
    protocol, port = key
    return PortBinding(protocol=protocol, container_port=port, host_port=port)
