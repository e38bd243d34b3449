"""The virtual IPs of one container, in its namespace: changed, read back, put right.

What is there is read back only at the start and when the rules' generation number says that
somebody else changed something, so a change costs what it changes. `container_names` calls it
from its thread.
"""

import errno
import socket
import struct
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence

import msgspec
import structlog

from agent.network import nft_messages as nft
from agent.network import vip_rules
from agent.network.balancing import (
    Backends,
    Move,
    Placed,
    changes,
    family,
    moved,
    moves,
    packed,
    placed_from,
)
from agent.network.conntrack import count_flows, forget_flows
from agent.network.netlink import Channel, Request
from agent.network.vip_rules import Family, Pick

_log = structlog.get_logger(__name__)


class _Table(msgspec.Struct):
    """A table as it is, or is believed to be."""

    placed: dict[str, Placed]
    picks: set[Pick]

    def wanted(self) -> dict[str, Backends]:
        return {address: each.backends for address, each in self.placed.items()}


class ContainerRules:
    """One container's table; `channel` is a netfilter channel in its namespace, closed here."""

    def __init__(self, container: str, channel: Channel) -> None:
        self._container = container
        self._channel = channel
        self._table: _Table | None = None
        self._generation = 0
        self._flows_noted = True

    def change(self, wanted: Mapping[str, Backends | None]) -> None:
        """Have these virtual IPs lead where they should (None: nowhere); others stay.

        After `make` only.
        """
        table = self._table or _Table({}, set())
        todo = moves(table.placed, wanted)
        if not todo:
            return
        new_picks = _picks_after(todo) - table.picks
        self._table = None  # unknown, should this fail
        try:
            self._transact(vip_rules.pick_steps(new_picks))
            self._transact(vip_rules.steps(todo))
        except OSError as error:
            if error.errno != errno.ERESTART:
                raise
            table.placed = moved(table.placed, todo)
            self.make(table.wanted())
            return
        table.placed = moved(table.placed, todo)
        table.picks |= new_picks
        self._table = table
        self._forget(todo)

    def make(self, wanted: Mapping[str, Backends]) -> None:
        """Have exactly these, whatever is there; what is right already is not touched."""
        believed = self._table or _Table({}, set())
        self._table = None
        for _ in range(5):
            self._generation = nft.read_generation(self._channel)
            found = self._read()
            before = found or believed
            todo = moves(before.placed, changes(before.wanted(), wanted))
            if found is not None:
                picks = found.picks | _picks_after(todo)
                after = _Table(moved(found.placed, todo), picks)
                requests = vip_rules.pick_steps(picks - found.picks) + vip_rules.steps(todo)
            else:
                placed = moved({}, moves({}, wanted))
                after = _Table(placed, vip_rules.picks_of(placed.values()))
                requests = vip_rules.replacement(list(placed.values()))
            try:
                self._transact(requests)
            except OSError as error:
                if error.errno != errno.ERESTART:
                    raise
                continue  # somebody changes rules at this moment
            self._table = after
            if found is None:  # what was noted before is gone
                self._flows_noted = count_flows(self._channel) == 0
            self._forget(todo)
            return
        raise OSError(errno.EAGAIN, "a container's rules change all the time")

    def repair(self, wanted: Callable[[], Mapping[str, Backends]]) -> bool:
        """Put right what somebody else changed; whether there was something to be put right.

        What is wanted is asked only then.
        """
        if self._table is not None:
            generation = nft.read_generation(self._channel)
            if generation == self._generation:
                return False
            if self._read() == self._table:
                self._generation = generation
                return False
        self.make(wanted())
        _log.warning("rules of a container were not as made", container=self._container)
        return True

    def fileno(self) -> int:
        """A socket in the namespace."""
        return self._channel.fileno()

    def close(self) -> None:
        """Close the channel; the rules stay as long as the namespace."""
        self._channel.close()

    def _transact(self, requests: Sequence[Request]) -> None:
        if requests:
            nft.transact(self._channel, requests, self._generation)
            self._generation += 1

    def _forget(self, done: Iterable[Move]) -> None:
        """Have flows without connection leave the backends that are gone.

        Finding them is dear (`conntrack`), so only where there may be some.
        """
        lost = [pair for move in done for pair in move.lost()]
        if self._flows_noted:
            asked = {address for address, _ in lost}
            loose = {address for address in asked if self._is_loose(address)}
            lost = [pair for pair in lost if pair[0] in loose]
        if lost:
            forget_flows(self._channel, set(lost))

    def _is_loose(self, address: str) -> bool:
        name = vip_rules.FAMILIES[family(address)].loose
        return nft.has_element(self._channel, vip_rules.TABLE, name, packed(address))

    def _read(self) -> _Table | None:
        """What is there; None unless all of it is as we would make it."""
        found: defaultdict[str, list[bytes]] = defaultdict(list)
        for chain, expressions in nft.read_rules(self._channel, vip_rules.TABLE):
            found[chain].append(expressions)
        table = _Table({}, set())
        try:
            for kind in vip_rules.FAMILIES.values():
                places = self._read_places(kind)
                virtual = {
                    socket.inet_ntop(kind.protocol, k) for k, _ in self._elements(kind.virtual)
                }
                if virtual != set(places):
                    return None
                table.placed |= places
                table.picks |= {
                    vip_rules.pick_from(kind, key, nft.chain_of(data))
                    for key, data in self._elements(kind.picks)
                }
        except (OSError, ValueError):
            return None
        if nft.read_chains(self._channel, vip_rules.TABLE) != vip_rules.chains(table.picks):
            return None
        for chain, rule in vip_rules.rules(table.picks):
            there = found[chain]
            if not there or not nft.same_expressions(rule, there.pop(0)):
                return None
        missing = vip_rules.picks_of(table.placed.values()) - table.picks
        return table if not missing and not any(found.values()) else None

    def _read_places(self, kind: Family) -> dict[str, Placed]:
        keys: defaultdict[bytes, dict[int, str]] = defaultdict(dict)
        for key, data in self._elements(kind.backends):
            number = struct.unpack_from("=I", key, kind.length)[0]
            backend = socket.inet_ntop(kind.protocol, nft.plain_of(data))
            keys[key[: kind.length]][number] = backend
        placed: dict[str, Placed] = {}
        for key, data in self._elements(kind.sizes):
            address = socket.inet_ntop(kind.protocol, key)
            half, count = vip_rules.size_from(nft.plain_of(data))
            placed[address] = placed_from(address, half, count, keys.pop(key, {}))
        if keys:
            raise ValueError(kind.backends)
        return placed

    def _elements(self, name: str) -> list[nft.Element]:
        return nft.read_elements(self._channel, vip_rules.TABLE, name)


def _picks_after(done: Iterable[Move]) -> set[Pick]:
    return vip_rules.picks_of(move.new for move in done if move.new is not None)
