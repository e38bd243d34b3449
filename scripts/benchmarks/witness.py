"""Who sees a change: a listener in each container's namespace, a name's asker on each host.

The kernel tells the listeners of every change of rules there. Times are seconds of the
monotonic clock, taken when this process has read the news: never before what they tell of.
"""

import os
import select
import socket
import struct
import time
from collections.abc import Mapping, Sequence

from agent.network.netlink import NETLINK_NETFILTER, Events, Message
from agent.network.netns import visiting

_RULES_GROUP = 7
_RESOLVER = ("127.0.0.11", 53)
_ASK_SECONDS = 0.005
_TYPE_A, _CLASS_IN = 1, 1


class Seen(dict[str, list[float]]):
    """For each host, when its namespaces had the change."""

    def last(self) -> float:
        """The last of all."""
        return max(each for times in self.values() for each in times)

    def spread_us(self) -> list[float]:
        """For each host, from one of its namespaces to the next, on average."""
        return [
            (max(times) - min(times)) / (len(times) - 1) * 1e6
            for times in self.values()
            if len(times) > 1
        ]


class Witnesses:
    """All of them; `pids` are processes of the containers by host. Close it."""

    def __init__(self, pids: Mapping[str, Sequence[int]]) -> None:
        self._listeners: dict[int, tuple[str, Events]] = {}
        self._askers: dict[int, tuple[str, socket.socket]] = {}
        self._poll = select.epoll()
        for host, inside in pids.items():
            for pid in inside:
                self._open(host, pid, ask=pid == inside[0])

    def _open(self, host: str, pid: int, *, ask: bool) -> None:
        namespace = os.open(f"/proc/{pid}/ns/net", os.O_RDONLY | os.O_CLOEXEC)
        try:
            with visiting(namespace):
                events = Events(NETLINK_NETFILTER, (_RULES_GROUP,))
                self._listeners[events.fileno()] = (host, events)
                self._poll.register(events.fileno(), select.EPOLLIN)
                if ask:
                    asker = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
                    asker.setblocking(False)
                    self._askers[asker.fileno()] = (host, asker)
                    self._poll.register(asker.fileno(), select.EPOLLIN)
        finally:
            os.close(namespace)

    def __len__(self) -> int:
        return len(self._listeners)

    def forget(self) -> None:
        """What happened until now is no news."""
        for _, events in self._listeners.values():
            events.drain()

    def watch(
        self, virtual_ip: str, name: str, addresses: int, seconds: float
    ) -> tuple[Seen, Seen]:
        """Until all have changed rules of a virtual IP, and so many addresses for a name.

        Raises:
            SystemExit: not all did, in time.
        """
        wanted, query = socket.inet_aton(virtual_ip), _query(name)
        ruled: dict[int, float] = {}
        named: dict[int, float] = {}
        due, until = 0.0, time.monotonic() + seconds
        while len(ruled) < len(self._listeners) or len(named) < len(self._askers):
            now = time.monotonic()
            if now > until:
                left = len(self._listeners) - len(ruled), len(self._askers) - len(named)
                raise SystemExit(f"after {seconds:g} s (namespaces, names) are missing: {left}")
            if now >= due:
                due = now + _ASK_SECONDS
                self._ask(query, named)
            for descriptor, _ in self._poll.poll(_ASK_SECONDS):
                if descriptor in self._askers:
                    if _count(self._askers[descriptor][1]) == addresses:
                        named.setdefault(descriptor, time.monotonic())
                elif any(wanted in each.body for each in self._news(descriptor)):
                    ruled.setdefault(descriptor, time.monotonic())
        return self._by_host(ruled, self._listeners), self._by_host(named, self._askers)

    def close(self) -> None:
        """Let go of the namespaces."""
        self._poll.close()
        for _, events in self._listeners.values():
            events.close()
        for _, asker in self._askers.values():
            asker.close()

    def _news(self, descriptor: int) -> Sequence[Message]:
        return self._listeners[descriptor][1].drain() or ()

    def _ask(self, query: bytes, done: Mapping[int, float]) -> None:
        for descriptor, (_, asker) in self._askers.items():
            if descriptor not in done:
                asker.sendto(query, _RESOLVER)

    @staticmethod
    def _by_host(times: Mapping[int, float], of: Mapping[int, tuple[str, object]]) -> Seen:
        found = Seen()
        for descriptor, when in times.items():
            found.setdefault(of[descriptor][0], []).append(when)
        return found


def _query(name: str) -> bytes:
    labels = b"".join(bytes([len(each)]) + each.encode() for each in name.split("."))
    head = struct.pack("!6H", 1, 0x0100, 1, 0, 0, 0)
    return head + labels + b"\0" + struct.pack("!2H", _TYPE_A, _CLASS_IN)


def _count(asker: socket.socket) -> int:
    """Addresses in the newest answer; -1 without one."""
    found = -1
    while True:
        try:
            found = int(struct.unpack_from("!H", asker.recv(65536), 6)[0])
        except BlockingIOError:
            return found
