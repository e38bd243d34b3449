"""What carries encrypted networks between hosts: which keys, whom to send to, when to change.

Pure. A host has one WireGuard device a key and at most two at a time, in slots 0 and 1, each
with a port and an inner address of its own. So a key changes without a lost packet: the new
device stands beside the old one, peers learn its key from the managers and may send to either
of a host's inner addresses; each host sends to the newest one that has answered a handshake.
Inner addresses are derived from the host's subnet on the gateway network (its two highest ones)
and need no allocation. `wireguard` makes the devices, `encryption` drives both.
"""

from collections.abc import Iterable, Mapping
from ipaddress import IPv4Address, IPv4Network

import msgspec

from shoal.model.ids import NodeID
from shoal.model.objects import TunnelKey

SLOTS = 2
KEEPALIVE_SECONDS = 25
ROTATE_SECONDS = 12 * 3600.0
RETIRE_SECONDS = 600.0
"""How long an old key is kept for peers that have not answered the new one."""


class TunnelPeer(msgspec.Struct, frozen=True, kw_only=True):
    """Another host: where it is, its gateway subnet, its keys, oldest first."""

    node_id: NodeID
    underlay: str
    subnet: str
    keys: tuple[TunnelKey, ...] = ()


class Device(msgspec.Struct, frozen=True, kw_only=True):
    """One WireGuard device of this host: the private key stays on the host."""

    slot: int
    private_key: str
    public_key: str
    port: int
    since: float

    @property
    def told(self) -> TunnelKey:
        """What peers need to know of it."""
        return TunnelKey(slot=self.slot, public_key=self.public_key, port=self.port)


def overhead(underlay: str) -> int:
    """Bytes that WireGuard adds to a packet between hosts that have such addresses."""
    return 80 if ":" in underlay else 60


def inner_address(subnet: str, slot: int) -> str:
    """The address of a host's slot inside the tunnel."""
    return str(IPv4Network(subnet).broadcast_address - 1 - slot)


def inner_addresses(subnet: IPv4Network) -> tuple[IPv4Address, ...]:
    """The addresses of a host's subnet that are the tunnel's, so that no task may have them."""
    return tuple(IPv4Address(inner_address(str(subnet), slot)) for slot in range(SLOTS))


def configuration(device: Device, peers: Iterable[TunnelPeer]) -> str:
    """What `wg syncconf` is told: exactly these peers, with all their keys."""
    lines = [
        "[Interface]",
        f"PrivateKey = {device.private_key}",
        f"ListenPort = {device.port}",
    ]
    for peer in sorted(peers, key=lambda each: each.node_id):
        for key in peer.keys:
            lines += [
                "[Peer]",
                f"PublicKey = {key.public_key}",
                f"AllowedIPs = {inner_address(peer.subnet, key.slot)}/32",
                f"Endpoint = {_endpoint(peer.underlay, key.port)}",
                f"PersistentKeepalive = {KEEPALIVE_SECONDS}",
            ]
    return "\n".join(lines) + "\n"


def _endpoint(address: str, port: int) -> str:
    return f"[{address}]:{port}" if ":" in address else f"{address}:{port}"


class Ways(msgspec.Struct, frozen=True, kw_only=True):
    """Where packets for peers go.

    Attributes:
        routes: inner address of a peer -> slot of our own device that leads there.
        destinations: node -> its inner address to send to; none: it has not answered yet.
    """

    routes: Mapping[str, int]
    destinations: Mapping[NodeID, str]


def ways(
    devices: Iterable[Device],
    peers: Iterable[TunnelPeer],
    handshakes: Mapping[tuple[int, str], float],
) -> Ways:
    """Choose by handshakes: (slot of ours, public key of the peer) -> when it answered last.

    Newest device first, newest key of the peer first; a pair that has never answered is no way.
    """
    routes: dict[str, int] = {}
    destinations: dict[NodeID, str] = {}
    ours = sorted(devices, key=lambda each: each.since, reverse=True)
    for peer in peers:
        for key in reversed(peer.keys):
            inner = inner_address(peer.subnet, key.slot)
            answered = [d for d in ours if handshakes.get((d.slot, key.public_key), 0.0) > 0]
            if answered:
                routes[inner] = answered[0].slot
                destinations.setdefault(peer.node_id, inner)
            elif ours:
                routes[inner] = ours[0].slot
    return Ways(routes=routes, destinations=destinations)


def due(devices: Iterable[Device], now: float) -> bool:
    """Whether it is time for a new key."""
    found = list(devices)
    return len(found) == 1 and now - found[0].since >= ROTATE_SECONDS


def retired(
    devices: Iterable[Device],
    peers: Iterable[TunnelPeer],
    handshakes: Mapping[tuple[int, str], float],
    now: float,
) -> Device | None:
    """The old device, once every peer has answered the new one, or has had time enough."""
    found = sorted(devices, key=lambda each: each.since)
    if len(found) < SLOTS:
        return None
    old, new = found[0], found[-1]
    answered = all(
        any(handshakes.get((new.slot, key.public_key), 0.0) > 0 for key in peer.keys)
        for peer in peers
        if peer.keys
    )
    late = now - new.since >= RETIRE_SECONDS
    return old if answered or late else None
