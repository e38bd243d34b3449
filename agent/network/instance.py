"""One host's network, synchronously: what is desired, and every step that makes it so.

All of it runs in the one thread of `host_network`, one call after another, so no call sees
another's halves. Desired state is kept here in memory only; the caller's records restore it by
`adopt`. Who is attached is `attached`'s; links go by `apply`, published ports and rules by
`publishing`, containers by `wiring`.
"""

import contextlib
from collections.abc import Callable, Iterator, Sequence
from ipaddress import IPv4Network

from msgspec.structs import replace

from agent.network import link_requests
from agent.network import rtnetlink as rt
from agent.network.apply import Applier
from agent.network.attached import Attached
from agent.network.children import child_of, probe
from agent.network.desired import (
    BRIDGE,
    MESH,
    Attachment,
    ClusterNetworks,
    Endpoint,
    IngressPort,
    Interface,
    Mesh,
    PortBinding,
)
from agent.network.firewalls import Firewalls
from agent.network.local import LocalNetwork
from agent.network.netlink import Channel
from agent.network.overlays import Change, Overlays
from agent.network.plan import (
    Ground,
    Names,
    check_mesh,
    container_port,
    make_plan,
    shared_ports,
)
from agent.network.publishing import Publishing
from agent.network.sealing import Sealing, vnis_here
from agent.network.subnets import HostSubnets
from agent.network.sysctls import has_ipv6
from agent.network.watching import Watch
from agent.network.wiring import Namespaces, lead_out, opened, wire
from shoal.model.errors import AlreadyExists, FailedPrecondition, InvalidArgument, NotFound
from shoal.model.ids import NetworkID

_PASSES = 3


class Instance:
    """The kernel objects of one instance as they should be; `clock` gives Unix seconds."""

    def __init__(
        self, names: Names, local_subnet: IPv4Network, clock: Callable[[], float]
    ) -> None:
        self._names = names
        self._local_subnet = local_subnet
        self._channel = Channel()
        self._applier = Applier(names, self._channel)
        self._watch = Watch(names)
        self.publishing = Publishing(names, local_subnet, self._watch)
        self._firewalls = Firewalls(names)
        self._namespaces = Namespaces()
        self._subnets = HostSubnets(names, local_subnet, ipv6=has_ipv6())
        self._overlays = Overlays()
        self.sealing = Sealing(names, self._channel, clock)
        self._attached = Attached(names, self._subnets, self._overlays)
        self._mesh: Mesh | None = None
        self._ground = Ground()
        self._links: dict[str, rt.Link] = {}
        self._settled = False
        self._unsure = False

    def filenos(self) -> tuple[int, ...]:
        """Descriptors that become readable when something happened."""
        return (*self._watch.filenos(), self.publishing.freed.fileno())

    def begin(self) -> None:
        """Settle at once on a clean host, else leave all as it is until `adopt`."""
        if self._settled:
            self.repair()
            return
        left = any(self._names.owns(name) for name in self._applier.links())
        if not left and not self.publishing.exists():
            self.adopt(())

    # -- containers ---------------------------------------------------------------------------

    def adopt(self, endpoints: Sequence[Endpoint]) -> None:
        """Take these as all that exist, sweep the rest."""
        for each in endpoints:
            if self._attached.adopt(each):
                for binding in each.ports:
                    self.publishing.hold_or_remember(binding)
        self._settled = True
        self._apply()
        self._pass_firewalls()

    def endpoint(self, container: str) -> Endpoint:
        """How a container is attached.

        Raises:
            NotFound: it is not.
        """
        return self._attached.get(container)

    def attach(
        self,
        container: str,
        attachments: Sequence[Attachment],
        ports: Sequence[PortBinding],
        name_servers: Sequence[str] = (),
    ) -> Endpoint:
        """Make a container's namespace and join it; all or nothing."""
        self._require_settled()
        self._attached.begin(container, name_servers)
        try:
            needed = self._attached.needed(attachments)
            fresh = [self._attached.place(container, each) for each in needed]
            endpoint = self._published(container, ports)
            if any(fresh):
                self._apply()
            elif ports:
                self._apply_rules()
            self._require_sealed(attachments)
            self._create(endpoint)
        except BaseException:
            self.detach(container)
            raise
        return replace(endpoint, netns_path=self._namespaces.path(container))

    def connect(self, container: str, path: str, attachment: Attachment) -> Endpoint:
        """Join a running container to one more network; all or nothing."""
        self._require_settled()
        before = self.endpoint(container)
        if before.on(attachment.network) is not None:
            raise AlreadyExists(
                f"endpoint of container {container} already exists in network "
                f"{attachment.network}"
            )
        try:
            if self._attached.place(container, attachment):
                self._apply()
            self._require_sealed([attachment])
            endpoint = self.endpoint(container)
            with opened(path) as (inner, descriptor):
                self._wire(inner, descriptor, endpoint.interfaces[-1:])
        except BaseException:
            with opened(path) as (inner, _):
                self._leave(container, attachment.network, inner)
            raise
        return endpoint

    def disconnect(self, container: str, path: str, network: str) -> Endpoint:
        """Take a running container off a network; another one leads out if this one did."""
        self._require_settled()
        if self.endpoint(container).on(network) is None:
            raise NotFound(f"container {container} is not connected to network {network}")
        with opened(path) as (inner, _):
            return self._leave(container, network, inner)

    def release_netns(self, container: str) -> None:
        """Let the container's namespace live by its processes alone."""
        self._namespaces.release(container)

    def detach(self, container: str) -> None:
        """Give back addresses and ports; the links vanish with the namespace."""
        self._namespaces.release(container)
        endpoint = self._attached.drop(container)
        if endpoint is None:
            return
        if self._overlays.keep(self._attached.networks()):
            self._apply()
        elif endpoint.ports:
            self._apply_rules()
        for binding in endpoint.ports:
            self.publishing.release(binding)
        self._attached.free(endpoint)

    # -- networks -----------------------------------------------------------------------------

    def set_local(self, networks: Sequence[LocalNetwork]) -> None:
        """Take these as all networks of this host besides `bridge`."""
        used = self._attached.networks()
        if networks == self._subnets.local and self._settled:
            return
        self._subnets.set_local(networks, used)
        if self._settled:
            self._apply()

    def probe(self, network: LocalNetwork) -> None:
        """Refuse what the kernel cannot make, or not on this parent."""
        probe(self._channel, self._names.link(-1), network, self._applier.links())

    def used_subnets(self) -> list[str]:
        """The subnets of all addresses of the host, and what it has routes to."""
        return self._applier.used_subnets()

    def set_mesh(self, mesh: Mesh | None) -> None:
        """Take part in a cluster's network, or no longer."""
        if mesh is not None:
            check_mesh(mesh, self._local_subnet)
        self._subnets.set_mesh(mesh, self._attached.all())
        self._mesh = mesh
        if self._settled:
            self._apply()

    def set_networks(self, networks: ClusterNetworks) -> None:
        """Take the managers' newest word of the cluster networks; all is so on return."""
        rebuilt, changes = self._overlays.tell(networks)
        for each in self._attached.networks() & networks.networks.keys():
            rebuilt = self._overlays.arrive(NetworkID(each)) or rebuilt
        if self._settled:
            if rebuilt or self._unsure:
                self._apply()
            elif changes:
                self._change(changes)

    def _change(self, changes: Sequence[Change]) -> None:
        self._unsure = True  # until all of it is done
        with self._our_doing():
            for each in changes:
                device = self._links[self._names.overlay_vxlan(each.vni)]
                self._applier.change_entries(device.index, each.gone, each.come)
        self._unsure = False

    def set_ingress(self, entries: Sequence[IngressPort]) -> None:
        """Replace the whole set."""
        gone = self.publishing.set_ingress(entries)
        if self._settled:
            self._apply_rules()
        self.publishing.release_ingress(gone)

    # -- the kernel ---------------------------------------------------------------------------

    def noticed(self) -> None:
        """Something happened: repair, if it was others' doing and concerns us."""
        links = self._watch.links_changed(self._links)
        freed = self.publishing.freed.any()
        if freed or self.publishing.others_changed_rules() or links or self._unsure:
            self.repair()
        elif self.sealing.hurried:
            with self._our_doing():
                answered = self._seal()
            if answered:
                self._apply()
        elif self._settled and self._watch.firewalls_changed():
            self._firewalls.apply(self._applier.links(), changed=True)

    def repair(self) -> None:
        """Compare everything and put right what differs."""
        if self._settled:
            self.publishing.try_again()
            self._apply()
            self._pass_firewalls()

    def _pass_firewalls(self) -> None:
        links = self._applier.links()
        self._firewalls.apply(links, changed=self._watch.firewalls_changed())

    def listing(self) -> str:
        """Our table as nftables shows it."""
        return self.publishing.listing()

    def destroy(self) -> None:
        """Remove every kernel object of this instance."""
        self._namespaces.close()
        self.publishing.destroy()
        self.sealing.destroy()
        self._firewalls.remove()
        self._applier.remove()
        self._attached.clear()
        self._overlays.keep(())
        self._settled = False

    def close(self) -> None:
        """Close all descriptors; the kernel's state stays."""
        self._namespaces.close()
        self.publishing.close()
        self._watch.close()
        self._channel.close()

    def _apply(self) -> None:
        self._unsure = True  # until all of it is done
        if self._mesh is not None:
            self._ground = self._applier.ground(self._mesh.underlay)
        self._seal()
        if self._overlays.sealed():
            self._apply_rules()  # before there is anything that may not leave in clear
        plan = make_plan(
            self._names,
            self._local_subnet,
            self._mesh,
            self._attached.all(),
            self._overlays.planned(),
            self._ground,
            self._subnets.local,
        )
        keep_mesh = MESH in self._attached.networks()
        for _ in range(_PASSES):
            self._watch.links_changed({})  # whoever did it: the compare sees it
            before = self._applier.sent
            self._links = self._applier.apply(
                plan,
                keep_mesh=keep_mesh,
                keep_overlays=self._has_unknown_networks(),
            )
            if self._applier.sent == before:
                break  # what happened meanwhile was not ours, and is noticed
        self._unsure = False
        self._apply_rules()

    def _seal(self) -> bool:
        """Bring the tunnel to what is wanted; whether other hosts are reached another way."""
        if not self._overlays.sealed() and self._has_unknown_networks():
            return False  # they may need it
        needed, mtu = bool(self._overlays.sealed()), self._ground.underlay_mtu
        self.sealing.apply(self._mesh, mtu, needed=needed)
        return self._overlays.reach(self.sealing.destinations)

    def _apply_rules(self) -> None:
        left = self._links if self._has_unknown_networks() else {}
        vnis, sealed = vnis_here(self._names, self._overlays, left)
        self.publishing.apply(
            self._mesh, sorted(vnis), sealed, self._attached.all(), self._subnets.local
        )

    def _has_unknown_networks(self) -> bool:
        """Whether containers live on networks that nobody has told of since our start."""
        local = (each.id for each in self._subnets.local)
        return not self._attached.networks() <= {BRIDGE, MESH, *local, *self._overlays.vnis()}

    @contextlib.contextmanager
    def _our_doing(self) -> Iterator[None]:
        """Links change in the block by us; what others did until then is put right after."""
        others = self._watch.links_changed(self._links)
        yield
        self._watch.links_changed(self._links)
        if others:
            self._apply()

    # -- one container ------------------------------------------------------------------------

    def _published(self, container: str, ports: Sequence[PortBinding]) -> Endpoint:
        if ports and not self.endpoint(container).outward.link:
            raise InvalidArgument(
                "a container can publish ports only on a bridge network that leads out: on none"
                " of its networks does it"
            )
        for binding in ports:
            self._attached.publish(container, self.publishing.hold(binding))
        return self.endpoint(container)

    def _leave(self, container: str, network: str, inner: Channel) -> Endpoint:
        """Take one interface away, if it is there, and what is left without it."""
        endpoint = self.endpoint(container)
        interface = endpoint.on(network)
        if interface is None:
            return endpoint
        self._attached.leave(container, network)
        with self._our_doing():
            inner.apply([link_requests.delete_link(interface.name)])  # the pair goes at once
        leading = self._attached.lead_out(container) if interface.gateways else None
        if leading is not None:
            lead_out(inner, leading)
        if self._overlays.keep(self._attached.networks()):
            self._apply()
        elif endpoint.ports:
            self._apply_rules()
        return self.endpoint(container)

    def _create(self, endpoint: Endpoint) -> None:
        inner = self._namespaces.create(endpoint.container)
        descriptor = self._namespaces.descriptor(endpoint.container)
        with contextlib.closing(inner):
            if endpoint.interfaces:
                self._wire(inner, descriptor, endpoint.interfaces)

    def _wire(self, inner: Channel, descriptor: int, interfaces: Sequence[Interface]) -> None:
        def attempt() -> None:
            wire(self._channel, inner, descriptor, interfaces, ports, self._links, children)

        shared = shared_ports(
            self._names, self._overlays.vnis(), self._subnets.local, self._ground
        )
        ports = {
            each.link: container_port(self._names, each, shared, self._ground)
            for each in interfaces
            if each.link
        }
        standing = {each.network for each in interfaces if not each.link}
        links = self._applier.links() if standing else {}
        children = {
            each.id: child_of(each, links)
            for each in self._subnets.local
            if each.id in standing
        }
        with self._our_doing():
            try:
                attempt()
            except OSError:
                self._apply()  # somebody deleted a bridge
                attempt()

    def _require_sealed(self, attachments: Sequence[Attachment]) -> None:
        """Nobody joins an encrypted network that cannot be carried."""
        sealed = self._overlays.sealed()
        names = [n for each in attachments if (n := sealed.get(NetworkID(each.network)))]
        if names and self.sealing.reason:
            self._apply()  # it may be possible by now
            self.sealing.require(names[0])

    def _require_settled(self) -> None:
        if not self._settled:
            raise FailedPrecondition(
                "the host's network is not ready: what an earlier run left must be adopted"
            )
