"""The tunnel between the hosts of encrypted networks: made, keyed, rotated, taken down.

Blocking; `instance` calls it in the network's thread. Private keys exist in the devices only,
never on disk: a restarted agent reads them back from there. What is not carried by the tunnel
does not leave the host: `nftables` drops it, `destinations` names only hosts that answered.
"""

from collections.abc import Callable, Iterable, Sequence

import msgspec
import structlog

from agent.network import rtnetlink as rt
from agent.network.netlink import Channel, Request
from agent.network.plan import Names
from agent.network.tunnel import (
    SLOTS,
    Device,
    TunnelPeer,
    Ways,
    configuration,
    due,
    inner_address,
    retired,
    ways,
)
from agent.network.wireguard import WireGuard, new_private_key, public_key
from shoal.model.objects import TunnelKey

_log = structlog.get_logger(__name__)
NO_WAYS = Ways(routes={}, destinations={})
FIRST_PORT = 51820


class Tunnel(msgspec.Struct, frozen=True, kw_only=True):
    """What is wanted: this host's gateway subnet, the packet size, and the other hosts."""

    subnet: str
    mtu: int
    peers: tuple[TunnelPeer, ...] = ()


class Encryption:
    """This host's end of the tunnel. `clock` gives Unix seconds."""

    def __init__(self, names: Names, channel: Channel, clock: Callable[[], float]) -> None:
        self._names = names
        self._channel = channel
        self._clock = clock
        self._wireguard = WireGuard(channel)
        self._devices: list[Device] = []
        self._configured: dict[int, str] = {}
        self._ways = NO_WAYS
        self._settled = True

    @property
    def keys(self) -> tuple[TunnelKey, ...]:
        """What the other hosts need to know, oldest first; nothing while there is no tunnel."""
        return tuple(each.told for each in sorted(self._devices, key=lambda d: d.since))

    @property
    def settled(self) -> bool:
        """Every host that has a key has answered, and no key is being changed."""
        return self._settled

    def apply(self, wanted: Tunnel | None) -> Ways:
        """Make it so; how peers are reached then. Called again and again until `settled`.

        Raises:
            FailedPrecondition: this host cannot encrypt; the sentence says what would help.
        """
        if wanted is None:
            self._take_down()
            return NO_WAYS
        now = self._clock()
        if not self._devices:
            self._devices = self._adopt(wanted, now) or [self._make(wanted, 0, now)]
        if due(self._devices, now):
            other = SLOTS - 1 - self._devices[0].slot
            self._devices.append(self._make(wanted, other, now))
            _log.info("tunnel gets a new key", slot=other)
        for device in self._devices:
            self._set(device, wanted)
        handshakes = self._handshakes()
        self._route(ways(self._devices, wanted.peers, handshakes))
        old = retired(self._devices, wanted.peers, handshakes, now)
        if old is not None:
            self._drop(old)
        keyed = [peer for peer in wanted.peers if peer.keys]
        answered = all(peer.node_id in self._ways.destinations for peer in keyed)
        self._settled = answered and len(self._devices) == 1
        return self._ways

    def destroy(self) -> None:
        """Delete whatever device of this instance there may be."""
        for slot in range(SLOTS):
            self._wireguard.delete(self._names.tunnel(slot))
        self._forget()

    def _take_down(self) -> None:
        for device in self._devices:
            self._wireguard.delete(self._names.tunnel(device.slot))
        self._forget()

    def _forget(self) -> None:
        self._devices, self._configured, self._ways = [], {}, NO_WAYS
        self._settled = True

    def _adopt(self, wanted: Tunnel, now: float) -> list[Device]:
        """The devices that an earlier agent left, newest answered last."""
        found: list[tuple[float, Device]] = []
        for slot in range(SLOTS):
            name = self._names.tunnel(slot)
            key = self._wireguard.private_key(name)
            if key:
                answered = max(self._wireguard.handshakes(name).values(), default=0.0)
                found.append((answered, self._device(slot, key, now)))
            else:
                self._wireguard.delete(name)
        for device in (each for _, each in found):
            self._up(device, wanted)
        found.sort(key=lambda each: each[0])
        return [
            msgspec.structs.replace(device, since=now + number * 1e-3)
            for number, (_, device) in enumerate(found)
        ]

    def _make(self, wanted: Tunnel, slot: int, now: float) -> Device:
        device = self._device(slot, new_private_key(), now)
        self._wireguard.create(self._names.tunnel(slot), wanted.mtu)
        self._up(device, wanted)
        return device

    def _device(self, slot: int, key: str, now: float) -> Device:
        return Device(
            slot=slot,
            private_key=key,
            public_key=public_key(key),
            port=FIRST_PORT + slot,
            since=now,
        )

    def _up(self, device: Device, wanted: Tunnel) -> None:
        """Up, with the inner address of its slot and no other."""
        name = self._names.tunnel(device.slot)
        link = rt.parse_link(self._channel.get(*rt.link_named(name)))
        inner = inner_address(wanted.subnet, device.slot)
        found = map(rt.parse_address, self._channel.dump(*rt.ADDRESSES))
        stale = [a for a in found if a.index == link.index and a.address != f"{inner}/32"]
        self._channel.apply(
            [
                *(rt.delete_address(link.index, a.address) for a in stale),
                rt.set_link(name, link.index, mtu=wanted.mtu),
                rt.new_address(link.index, f"{inner}/32"),
            ]
        )

    def _set(self, device: Device, wanted: Tunnel) -> None:
        text = configuration(device, wanted.peers)
        if self._configured.get(device.slot) != text:
            self._wireguard.configure(self._names.tunnel(device.slot), text)
            self._configured[device.slot] = text

    def _handshakes(self) -> dict[tuple[int, str], float]:
        return {
            (device.slot, key): when
            for device in self._devices
            for key, when in self._wireguard.handshakes(self._names.tunnel(device.slot)).items()
        }

    def _route(self, new: Ways) -> None:
        changed = [
            (address, slot)
            for address, slot in new.routes.items()
            if self._ways.routes.get(address) != slot
        ]
        self._channel.apply(list(self._requests(changed)))
        self._ways = new

    def _requests(self, routes: Sequence[tuple[str, int]]) -> Iterable[Request]:
        indexes: dict[int, int] = {}
        for address, slot in routes:
            if slot not in indexes:
                link = self._channel.get(*rt.link_named(self._names.tunnel(slot)))
                indexes[slot] = rt.parse_link(link).index
            yield rt.new_host_route(indexes[slot], address)

    def _drop(self, old: Device) -> None:
        _log.info("tunnel lets go of an old key", slot=old.slot)
        self._devices = [each for each in self._devices if each.slot != old.slot]
        self._configured.pop(old.slot, None)
        self._wireguard.delete(self._names.tunnel(old.slot))
        # routes over it are gone with it; the next pass sets what is missing
        self._ways = Ways(
            routes={a: s for a, s in self._ways.routes.items() if s != old.slot},
            destinations=self._ways.destinations,
        )
