"""Whether this host can carry encrypted networks now, by which addresses, and if not, why.

Drives `encryption` for `instance`: the tunnel is up while an encrypted network is here. What
fails does not stop the rest of the host's network from being repaired: then `reason` says why,
no host can be reached, and every pass tries again. Blocking, in the network's thread.
"""

from collections.abc import Callable, Mapping

import structlog

from agent.network import rtnetlink as rt
from agent.network.desired import Mesh
from agent.network.encryption import Encryption, Tunnel
from agent.network.netlink import Channel
from agent.network.overlays import Overlays
from agent.network.plan import Names
from agent.network.tunnel import TunnelPeer, overhead
from shoal.model.errors import ClusterError, Unavailable
from shoal.model.ids import NodeID
from shoal.model.objects import TunnelKey

_log = structlog.get_logger(__name__)
HURRY_SECONDS = 15.0
"""How long after a change answers of other hosts are looked for all the time."""

_NO_MESH = "this host has no part in the cluster's network yet: no manager has assigned one"


class Sealing:
    """The tunnel of one host, as far as encrypted networks need one.

    Attributes:
        reason: why there is no tunnel although one is needed; empty while all is well.
        keys: what other hosts must know to answer, oldest first.
        destinations: the hosts that answered, and where VXLAN for them is sent.
    """

    def __init__(self, names: Names, channel: Channel, clock: Callable[[], float]) -> None:
        self._encryption = Encryption(names, channel, clock)
        self._clock = clock
        self._wanted: Tunnel | None = None
        self._hurry_until = 0.0
        self._healed = False  # to be said once there is a tunnel
        self._silent: frozenset[str] = frozenset()
        self.reason = ""
        self.keys: tuple[TunnelKey, ...] = ()
        self.destinations: Mapping[NodeID, str] = {}

    @property
    def hurried(self) -> bool:
        """Whether a host that has a key may answer any moment."""
        return (
            self._wanted is not None
            and not self.reason
            and not self._encryption.settled
            and self._clock() < self._hurry_until
        )

    def apply(self, mesh: Mesh | None, underlay_mtu: int, *, needed: bool) -> None:
        """Have the tunnel, or take it down where no encrypted network is here."""
        wanted = _tunnel(mesh, underlay_mtu) if mesh is not None and needed else None
        before = self.keys
        try:
            ways = self._encryption.apply(wanted)
        except (ClusterError, OSError) as error:
            self._failed(str(error))
        else:
            self.destinations = ways.destinations
            self._failed(_NO_MESH if needed and wanted is None else "")
            if self._healed and wanted is not None:
                self._healed = False
                _log.info("encrypted networks work again")
        self.keys = self._encryption.keys
        if wanted != self._wanted or self.keys != before:
            self._hurry_until = self._clock() + HURRY_SECONDS
        self._wanted = wanted
        self._tell_silent()

    def _tell_silent(self) -> None:
        """Of hosts that should have answered by now, each once; and when they have."""
        if self._wanted is None or self.reason or self._clock() < self._hurry_until:
            return
        silent = frozenset(
            peer.underlay
            for peer in self._wanted.peers
            if peer.keys and peer.node_id not in self.destinations
        )
        for address in sorted(silent - self._silent):
            _log.warning("a host does not answer on encrypted networks", address=address)
        for address in sorted(self._silent - silent):
            _log.info("a host answers on encrypted networks again", address=address)
        self._silent = silent

    def require(self, network: str) -> None:
        """Nobody joins a network that cannot be carried.

        Raises:
            Unavailable: there is no tunnel; why.
        """
        if self.reason:
            raise Unavailable(f"network {network} is encrypted: {self.reason}")

    def _failed(self, reason: str) -> None:
        if reason:
            self.destinations = {}
            if reason != self.reason:
                _log.warning("encrypted networks do not work here", reason=reason)
                self._healed = True
        self.reason = reason

    def destroy(self) -> None:
        """Delete whatever the tunnel consists of."""
        self._encryption.destroy()
        self.reason, self.keys, self.destinations, self._wanted = "", (), {}, None


def vnis_here(
    names: Names, overlays: Overlays, left: Mapping[str, rt.Link]
) -> tuple[list[int], set[int]]:
    """VNIs of the cluster networks that are here, and of the encrypted ones among them.

    `left` are links with the devices of networks that nobody has told of since our start: those
    of encrypted ones have no address of their own.
    """
    here = overlays.vnis()
    sealed = {here[each] for each in overlays.sealed()}
    unknown = {n: v for n in left if (v := names.vni_of(n)) not in (0, *here.values())}
    kinds = ((left[name], vni) for name, vni in unknown.items())
    sealed |= {vni for each, vni in kinds if each.kind == "vxlan" and not each.local}
    return sorted({*here.values(), *unknown.values()}), sealed


def _tunnel(mesh: Mesh, underlay_mtu: int) -> Tunnel:
    return Tunnel(
        subnet=mesh.subnet,
        mtu=underlay_mtu - overhead(mesh.underlay),
        peers=tuple(
            TunnelPeer(
                node_id=NodeID(each.node),
                underlay=each.underlay,
                subnet=each.subnet,
                keys=each.tunnel,
            )
            for each in mesh.peers
            if each.subnet != mesh.subnet
        ),
    )
