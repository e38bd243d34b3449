"""The tunnel between the hosts of encrypted networks: made, keyed, rotated, taken down.

Blocking; `instance` calls it in the network's thread. Private keys exist in the devices only,
never on disk: a restarted agent reads them back from there. What is not carried by the tunnel
does not leave the host: `nftables` drops it, `destinations` names only hosts that answered.
"""

from collections.abc import Callable, Mapping

import msgspec
import structlog

from agent.network import link_requests, route_requests
from agent.network import rtnetlink as rt
from agent.network.netlink import Channel
from agent.network.plan import Names
from agent.network.sysctls import accept_by_any_way
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
from agent.network.wireguard import Found, WireGuard, new_private_key, public_key
from shoal.model.errors import ClusterError
from shoal.model.objects import TunnelKey

_log = structlog.get_logger(__name__)
NO_WAYS = Ways(routes={}, destinations={})
FIRST_PORT = 51820
_ALIAS = "key since "
"""What a device's remark tells a restarted agent: the age of its key, in Unix seconds."""


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
        self._settled = True
        self._clean = False
        self._complaint = ""

    @property
    def keys(self) -> tuple[TunnelKey, ...]:
        """What the other hosts need to know, oldest first; nothing while there is no tunnel."""
        return tuple(each.told for each in sorted(self._devices, key=lambda d: d.since))

    @property
    def settled(self) -> bool:
        """Every host that has a key has answered, and no key is being changed."""
        return self._settled

    def apply(self, wanted: Tunnel | None) -> Ways:
        """Make it so, whatever was changed meanwhile; how peers are reached then.

        Called again and again until `settled`, and at each compare.

        Raises:
            FailedPrecondition: this host cannot encrypt; the sentence says what would help.
        """
        if wanted is None:
            self._take_down()
            return NO_WAYS
        now, self._clean = self._clock(), False
        if not self._devices:
            self._devices = self._adopt(now) or [self._make(wanted, 0, now)]
        self._rotate(wanted, now)
        handshakes: dict[tuple[int, str], float] = {}
        for device in self._devices:
            found = self._keep(device, wanted)
            handshakes |= {(device.slot, key): when for key, when in found.items()}
        chosen = ways(self._devices, wanted.peers, handshakes)
        self._route(chosen)
        old = retired(self._devices, wanted.peers, handshakes, now)
        if old is not None:
            self._drop(old)
            _log.info("tunnel lets go of its old key", slot=old.slot)
            chosen = ways(self._devices, wanted.peers, handshakes)
            self._route(chosen)
        keyed = [peer for peer in wanted.peers if peer.keys]
        answered = all(peer.node_id in chosen.destinations for peer in keyed)
        self._settled = answered and len(self._devices) == 1
        return chosen

    def destroy(self) -> None:
        """Delete whatever device of this instance there may be."""
        for slot in range(SLOTS):
            self._wireguard.delete(self._names.tunnel(slot))
        self._forget()

    def _take_down(self) -> None:
        """What an earlier agent left goes too."""
        if self._clean:
            return
        links = map(rt.parse_link, self._channel.dump(*rt.LINKS))
        present = {link.name for link in links}
        known = {self._names.tunnel(device.slot) for device in self._devices}
        for name in map(self._names.tunnel, range(SLOTS)):
            if name in present | known:
                self._wireguard.delete(name)
        self._forget()

    def _forget(self) -> None:
        self._devices, self._configured = [], {}
        self._settled = self._clean = True

    def _adopt(self, now: float) -> list[Device]:
        """The devices that an earlier agent left, the oldest key first."""
        adopted = []
        for slot in range(SLOTS):
            name = self._names.tunnel(slot)
            found = self._wireguard.find(name)
            if found is not None and found.private_key:
                since = _since(self._link(slot).alias, now)
                adopted.append(self._device(slot, found.private_key, since))
            else:
                self._wireguard.delete(name)
        return sorted(adopted, key=lambda each: each.since)

    def _make(self, wanted: Tunnel, slot: int, now: float) -> Device:
        """A device with a new key, or none at all."""
        device = self._device(slot, new_private_key(), now)
        try:
            self._keep(device, wanted)
        except BaseException:
            self._drop(device)
            raise
        return device

    def _device(self, slot: int, key: str, since: float) -> Device:
        return Device(
            slot=slot,
            private_key=key,
            public_key=public_key(key),
            port=FIRST_PORT + slot,
            since=since,
        )

    def _rotate(self, wanted: Tunnel, now: float) -> None:
        """A new key beside the old one; what hinders it does not end what works."""
        if not due(self._devices, now):
            return
        other = SLOTS - 1 - self._devices[0].slot
        try:
            self._devices.append(self._make(wanted, other, now))
        except (ClusterError, OSError) as error:
            if str(error) != self._complaint:
                _log.warning("tunnel keeps its old key", reason=str(error))
            self._complaint = str(error)
        else:
            self._complaint = ""
            _log.info("tunnel gets a new key", slot=other)

    def _keep(self, device: Device, wanted: Tunnel) -> Mapping[str, float]:
        """The device is there, up, and knows exactly the peers; when each answered last."""
        name = self._names.tunnel(device.slot)
        found = self._wireguard.find(name)
        if found is None:
            self._wireguard.create(name, wanted.mtu)
        self._up(device, wanted)
        text = configuration(device, wanted.peers)
        if not _is_so(found, device, wanted) or self._configured.get(device.slot) != text:
            self._configured.pop(device.slot, None)
            self._wireguard.configure(name, text)
            self._configured[device.slot] = text
            found = self._wireguard.find(name)
        return found.handshakes if found is not None else {}

    def _link(self, slot: int) -> rt.Link:
        return rt.parse_link(self._channel.get(*rt.link_named(self._names.tunnel(slot))))

    def _up(self, device: Device, wanted: Tunnel) -> None:
        """Up, with the inner address of its slot and no other."""
        link = self._link(device.slot)
        inner = f"{inner_address(wanted.subnet, device.slot)}/32"
        addresses = map(rt.parse_address, self._channel.dump(*rt.ADDRESSES))
        found = {each.address for each in addresses if each.index == link.index}
        requests = [
            route_requests.delete_address(link.index, each) for each in sorted(found - {inner})
        ]
        if (link.up, link.mtu) != (True, wanted.mtu):
            requests.append(link_requests.set_link(link.name, link.index, mtu=wanted.mtu))
        if inner not in found:
            requests.append(route_requests.new_address(link.index, inner))
        if not link.alias:
            requests.append(link_requests.set_alias(link.index, f"{_ALIAS}{device.since:.0f}"))
        if requests:
            self._channel.apply(requests)
        accept_by_any_way(link.name)

    def _route(self, chosen: Ways) -> None:
        """Each peer's inner addresses lead over their device, and nothing else does."""
        indexes = {each.slot: self._link(each.slot).index for each in self._devices}
        wanted = {(indexes[slot], address) for address, slot in chosen.routes.items()}
        found = {
            route
            for index in indexes.values()
            for query in rt.routes_over(index)
            for message in self._channel.dump(*query)
            if (route := rt.parse_host_route(message)) is not None and route[0] == index
        }
        # what moves to the other device is replaced, so that no packet finds no route
        requests = [route_requests.new_host_route(*each) for each in sorted(wanted - found)]
        requests += [
            route_requests.delete_route(i, f"{to}/32") for i, to in sorted(found - wanted)
        ]
        if requests:
            self._channel.apply(requests)

    def _drop(self, old: Device) -> None:
        """Routes over it go with it."""
        self._devices = [each for each in self._devices if each.slot != old.slot]
        self._configured.pop(old.slot, None)
        self._wireguard.delete(self._names.tunnel(old.slot))


def _since(alias: str, now: float) -> float:
    age = alias.removeprefix(_ALIAS)
    return float(age) if age != alias and age.isdecimal() else now


def _is_so(found: Found | None, device: Device, wanted: Tunnel) -> bool:
    """Whether a device has its key, its port and its peers. Where those are it may learn."""
    if found is None:
        return False
    peers = {
        key.public_key: f"{inner_address(peer.subnet, key.slot)}/32"
        for peer in wanted.peers
        for key in peer.keys
    }
    there = (found.private_key, found.port, found.peers)
    return there == (device.private_key, device.port, peers)
