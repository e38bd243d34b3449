"""Published ports held by bound sockets, so that nobody else on the host can take them.

A rule that rewrites destinations would silently take another process's traffic. A TCP or SCTP
socket listens: then the kernel refuses either side, also with SO_REUSEADDR, which lets us take
a port that another has just left. A UDP socket is bound without SO_REUSEADDR. `relay` serves
what reaches them; nobody reads a UDP socket of IPv4, where the rules lead everything. Sockets
live in the namespace of the calling thread. Used by `publishing`, from its thread.
"""

import errno
import socket
from collections.abc import Iterable, Iterator

import msgspec

from agent.network import datagrams
from agent.network.desired import ANY_ADDRESS, ANY_ADDRESS6, PortBinding
from agent.network.relay import Listeners
from shoal.common.ports import holder_of
from shoal.model.errors import FailedPrecondition, InvalidArgument

_FIRST_RANDOM, _LAST_RANDOM = 32768, 60999
_STREAM = socket.SOCK_STREAM
_BACKLOG = 128
_Key = tuple[str, str, int]


class HeldPorts:
    """The ports this instance has published."""

    def __init__(self, listeners: Listeners) -> None:
        self._listeners = listeners
        self._held: dict[_Key, _Bound] = {}

    def hold(self, binding: PortBinding) -> PortBinding:
        """Take a port, any free one for port 0 or of a range; returns it with its number.

        Raises:
            FailedPrecondition: the port is taken, by a container or another process.
            InvalidArgument: the address is not one of this host's.
        """
        for port in _ports(binding):
            taken = msgspec.structs.replace(binding, host_port=port, last_host_port=0)
            opened = None if self._is_held(taken) else _bind(taken)
            if opened is not None:
                self._held[_key(taken)] = opened
                for each in opened.listening:
                    self._listeners.add(taken.protocol, each)
                return taken
        if binding.last_host_port:
            raise FailedPrecondition(
                f"Bind for {binding.host_ip}:{binding.host_port}-{binding.last_host_port}"
                " failed: all ports are allocated"
            )
        if binding.host_port:
            raise FailedPrecondition(
                f"Bind for {binding.host_ip}:{binding.host_port} failed: "
                f"port is already allocated{self._by_whom(binding)}"
            )
        raise FailedPrecondition(
            f"no free {binding.protocol} port from {_FIRST_RANDOM} to {_LAST_RANDOM} "
            f"on {binding.host_ip}"
        )

    def release(self, binding: PortBinding) -> None:
        """Let go of a port; one that is not held is no error."""
        held = self._held.pop(_key(binding), None)
        if held is not None:
            self._close(held)

    def close(self) -> None:
        """Let go of all."""
        for held in self._held.values():
            self._close(held)
        self._held.clear()

    def _close(self, held: "_Bound") -> None:
        for each in held.sockets:
            self._listeners.discard(each)
        held.close()

    def _by_whom(self, binding: PortBinding) -> str:
        kind = {"tcp": socket.SOCK_STREAM, "udp": socket.SOCK_DGRAM}.get(binding.protocol)
        if self._is_held(binding) or kind is None:
            return ""
        return f", by {holder_of(binding.host_port, kind)}"

    def _is_held(self, binding: PortBinding) -> bool:
        protocol, _, port = _key(binding)
        return any(
            (protocol, port) == (other[0], other[2]) and _overlap(binding.host_ip, other[1])
            for other in self._held
        )


class _Bound(msgspec.Struct, frozen=True):
    """A successful bind; without sockets where the kernel has none of that protocol."""

    sockets: tuple[socket.socket, ...]

    @property
    def listening(self) -> tuple[socket.socket, ...]:
        """Those that `relay` serves."""
        return tuple(
            s for s in self.sockets if s.type == _STREAM or s.family == socket.AF_INET6
        )

    def close(self) -> None:
        for each in self.sockets:
            each.close()


def _overlap(one: str, other: str) -> bool:
    if one == other or ANY_ADDRESS in (one, other):
        return True
    return ANY_ADDRESS6 in (one, other) and ":" in one and ":" in other


def _key(binding: PortBinding) -> _Key:
    return (binding.protocol, binding.host_ip, binding.host_port)


def _ports(binding: PortBinding) -> Iterable[int]:
    """Ports to try, in order."""
    if binding.last_host_port:
        return range(binding.host_port, binding.last_host_port + 1)
    return (binding.host_port,) if binding.host_port else _random_ports(binding)


def _random_ports(binding: PortBinding) -> Iterator[int]:
    """Ports to try: the kernel's own choice first, then the whole range in order."""
    for _ in range(8):
        bound = _bind(binding)
        if bound is not None and bound.sockets:
            port = bound.sockets[0].getsockname()[1]
            bound.close()
            if _FIRST_RANDOM <= port <= _LAST_RANDOM:
                yield port
    yield from range(_FIRST_RANDOM, _LAST_RANDOM + 1)


def _bind(binding: PortBinding) -> _Bound | None:
    opened: list[socket.socket] = []
    for family in binding.families:
        # a number that the kernel chooses for one family is tried for both by the caller
        if opened and not binding.host_port:
            break
        try:
            made = _socket(binding.protocol, family)
        except OSError:
            continue  # no SCTP, or no IPv6, in this kernel: no process can hold it either
        opened.append(made)
        any_of = {4: ANY_ADDRESS, 6: ANY_ADDRESS6}[family]
        address = any_of if binding.host_ip == ANY_ADDRESS else binding.host_ip
        try:
            made.bind((address, binding.host_port))
            if binding.protocol != "udp" and binding.host_port:
                made.listen(_BACKLOG)
        except OSError as error:
            if error.errno == errno.EADDRNOTAVAIL and address == ANY_ADDRESS6:
                opened.pop().close()  # IPv6 is switched off
                continue
            _Bound(tuple(opened)).close()
            if error.errno == errno.EADDRNOTAVAIL:
                raise InvalidArgument(
                    f"{binding.host_ip} is not an address of this host", field="HostIp"
                ) from error
            return None
    return _Bound(tuple(opened))


def _socket(protocol: str, family: int) -> socket.socket:
    domain = {4: socket.AF_INET, 6: socket.AF_INET6}[family]
    match protocol:
        case "udp":
            opened = socket.socket(domain, socket.SOCK_DGRAM)
            if family == 6:
                datagrams.prepare(opened)
            else:  # what comes before the rules are there must not pile up
                opened.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1)
        case "sctp":
            opened = socket.socket(domain, socket.SOCK_STREAM, socket.IPPROTO_SCTP)
        case _:
            opened = socket.socket(domain, socket.SOCK_STREAM)
            opened.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    if family == 6:
        opened.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
    return opened
