"""Published ports and the rules of the instance: what is held, what is in the kernel's table.

Ports are held by sockets (`ports`), the table is text (`nftables`) that goes by `nft`. Knows
the ruleset that it applied last and trusts it as long as nobody else changed our table. Used
by `instance`, from its thread.
"""

import socket
from collections.abc import Collection, Iterable, Iterator, Sequence
from ipaddress import IPv4Network

import structlog

from agent.network.conntrack import forget_stale
from agent.network.desired import (
    ANY_ADDRESS6,
    Endpoint,
    IngressPort,
    Mesh,
    PortBinding,
    Protocol,
)
from agent.network.dial import Asked, Dialled, open_socket
from agent.network.freed_ports import FreedPorts
from agent.network.local import LocalNetwork
from agent.network.netlink import NETLINK_NETFILTER, Channel
from agent.network.nft import Nft
from agent.network.nft_messages import transact
from agent.network.nftables import (
    Ruleset,
    changed_ports,
    declaration,
    difference,
    make_ruleset,
    replacement,
)
from agent.network.pick_chains import half_open, half_open_timeouts, pick_chains
from agent.network.plan import Names
from agent.network.ports import HeldPorts
from agent.network.published import Mesher, Port, Target, container_ports
from agent.network.relay import Listeners
from agent.network.watching import Watch
from shoal.model.errors import ClusterError, Internal, InvalidArgument
from shoal.model.objects import TakenPort

_log = structlog.get_logger(__name__)
_Ingress = tuple[Protocol, int]


class Publishing:
    """The one table of an instance and the ports behind it."""

    def __init__(self, names: Names, local_subnet: IPv4Network, watch: Watch) -> None:
        self._names = names
        self._local_subnet = local_subnet
        self._watch = watch
        self._nft = Nft()
        self._netfilter = Channel(NETLINK_NETFILTER)
        self.listeners = Listeners()
        self._held = HeldPorts(self.listeners)
        self._ingress: dict[_Ingress, IngressPort] = {}
        self._unheld: dict[PortBinding, str] = {}
        self.freed = FreedPorts()
        self._ruleset: Ruleset | None = None
        self._timeouts = True
        self._mesh: Mesh | None = None
        self._mesher = Mesher(None)
        self._made: dict[_Ingress, tuple[IngressPort, Port]] = {}

    def exists(self) -> bool:
        """Whether our table is in the kernel."""
        return self._nft.chains(self._names.table) is not None

    def hold(self, binding: PortBinding) -> PortBinding:
        """Take a port for a container; see `HeldPorts.hold`."""
        return self._held.hold(binding)

    @property
    def taken(self) -> tuple[TakenPort, ...]:
        """The cluster's ports that others have on this host, and who."""
        reasons = {key: self._unheld.get(_binding(key)) for key in self._ingress}
        return tuple(
            TakenPort(protocol=protocol, port=port, reason=reason)
            for (protocol, port), reason in sorted(reasons.items())
            if reason is not None
        )

    def hold_or_remember(self, binding: PortBinding) -> None:
        """Hold a port that is published in any case; try again when it may be free."""
        try:
            self._held.hold(binding)
        except ClusterError as error:
            if binding not in self._unheld:
                _log.warning("published port not reserved", reason=str(error))
            self._unheld[binding] = str(error)
        else:
            self._unheld.pop(binding, None)
        self._watch_unheld()

    def _watch_unheld(self) -> None:
        self.freed.watch({each.host_port for each in self._unheld})

    def try_again(self) -> None:
        """Hold what could not be held so far."""
        for binding in list(self._unheld):
            self.hold_or_remember(binding)

    def release(self, binding: PortBinding) -> None:
        """Let go of a port, unless it was never ours but another's of the same number."""
        if self._unheld.pop(binding, None) is None:
            self._held.release(binding)
        self._watch_unheld()

    def set_ingress(self, entries: Sequence[IngressPort]) -> list[PortBinding]:
        """Take the whole set and hold its ports; `apply` is next.

        Returns what to give to `release_ingress` after that.
        """
        wanted: dict[_Ingress, IngressPort] = {}
        wanted |= {(each.protocol, each.published_port): each for each in entries}
        if len(wanted) != len(entries):
            raise InvalidArgument("an ingress port is given twice", field="entries")
        gone = [_binding(key) for key in self._ingress if key not in wanted]
        added = [_binding(key) for key in wanted if key not in self._ingress]
        self._ingress = wanted
        for binding in added:
            self.hold_or_remember(binding)
        return gone

    def release_ingress(self, gone: Iterable[PortBinding]) -> None:
        """Let go of ports."""
        for binding in gone:
            self.release(binding)

    def others_changed_rules(self) -> bool:
        """Whether somebody changed our table since last asked."""
        if self._watch.rules_changed():
            self._ruleset = None
        return self._ruleset is None

    def apply(
        self,
        mesh: Mesh | None,
        overlays: Sequence[int],
        sealed: Collection[int],
        endpoints: Iterable[Endpoint],
        local: Sequence[LocalNetwork] = (),
    ) -> None:
        """Bring the table to what is wanted.

        `overlays` are the VNIs that are here, `sealed` those of encrypted networks among them.
        """
        ports = [*container_ports(endpoints), *self._ingress_ports(mesh)]
        new = make_ruleset(
            self._names, self._local_subnet, mesh, overlays, ports, local, sealed
        )
        old = self._ruleset
        before = self._watch.generation()
        if self._watch.rules_changed():
            self._ruleset = None
        if self._ruleset is None:
            present = self._nft.chains(self._names.table) or ()
            text = replacement(new, present)
        else:
            text = difference(self._ruleset, new)
        picks = new.picks - (self._ruleset.picks if self._ruleset is not None else frozenset())
        transactions = 1
        replaced = self._ruleset is None
        self._ruleset = None  # unknown, should this fail
        if replaced:
            self._nft.apply(declaration(self._names.table))
            transactions += 1 + self._make_timeouts()
        if picks:
            chains = pick_chains(self._names.table, picks, self._timeouts)
            transact(self._netfilter, list(chains))
            transactions += 1
        if text:
            self._nft.apply(text)
            self._watch.rules_changed()  # our own doing
        if not text or self._watch.generation() == before + transactions:
            self._ruleset = new
        # else: somebody changed rules meanwhile, perhaps ours: the next pass replaces all
        if not text:
            return
        self._forget_flows(old, new)

    def _make_timeouts(self) -> int:
        """Have those of the pick chains, where the kernel can; how many changes it took."""
        if self._nft.has_timeouts(self._names.table, half_open(4)):
            return 0
        try:
            self._nft.apply(half_open_timeouts(self._names.table))
        except Internal as error:
            if self._timeouts:
                _log.warning("connections to lost hosts wait for them", reason=str(error))
            self._timeouts = False
            return 0
        self._timeouts = True
        return 1

    def _ingress_ports(self, mesh: Mesh | None) -> Iterator[Port]:
        """Made anew only where something changed."""
        if mesh != self._mesh:
            self._mesh, self._mesher, self._made = mesh, Mesher(mesh), {}
        made, self._made = self._made, {}
        for key, entry in self._ingress.items():
            known = made.get(key)
            if known is None or known[0] != entry:
                known = (entry, self._mesher.port(entry))
            self._made[key] = known
            if _binding(key) not in self._unheld:
                yield known[1]

    def _forget_flows(self, old: Ruleset | None, new: Ruleset) -> None:
        """UDP flows to ports that changed go to their new backends."""
        changed = {
            was.number
            for was, now in changed_ports(old, new)
            if was is not None
            and was.udp_targets
            and (now is None or was.udp_targets - (now.udp_targets or frozenset()))
        } | {
            now.number
            for was, now in changed_ports(old, new)
            if was is None and now is not None and now.udp_targets is not None
        }
        if changed:
            targets: dict[int, set[tuple[str, int]]] = {number: set() for number in changed}
            for port in new.ports.values():
                if port.udp_targets is not None and port.number in changed:
                    targets[port.number] |= port.udp_targets
            forget_stale(self._netfilter, targets)

    def dial(self, asked: Asked) -> Dialled | None:
        """For what came to a listener; None where the port leads nowhere."""
        ports = self._ruleset.ports if self._ruleset is not None else {}
        key = f"{asked.protocol} . {asked.port}"
        target: Target | None = ("127.0.0.1", asked.port)  # by the rules
        for on in (asked.address, ANY_ADDRESS6):
            own = ports.get(f"{on} . {key}")
            if own is not None:
                target = own.relayed
                break
        if target is None:
            return None
        family = socket.AF_INET6 if ":" in target[0] else socket.AF_INET
        return open_socket(asked.protocol, family), target

    def listing(self) -> str:
        """Our table as nftables shows it."""
        return self._nft.listing(self._names.table)

    def destroy(self) -> None:
        """Remove the table, let go of all ports."""
        self._held.close()
        table = f"table inet {self._names.table}"
        self._nft.apply(f"add {table}\ndelete {table}\n")
        self._ingress.clear()

    def close(self) -> None:
        """Close all descriptors; the kernel's state stays."""
        self._held.close()
        self.listeners.close()
        self.freed.close()
        self._netfilter.close()
        self._nft.close()


def _binding(key: _Ingress) -> PortBinding:
    protocol, port = key
    return PortBinding(protocol=protocol, container_port=port, host_port=port)
