"""Published ports held by bound sockets, so that nobody else on the host can take them.

A rule that rewrites destinations would silently take another process's traffic; a socket that
is bound, and never listens, makes the kernel refuse either side. Sockets live in the namespace
of the calling thread. SO_REUSEADDR stays off: with it, a server that also sets it could share
the port. Used by `instance`, from its thread.
"""

import errno
import socket
from collections.abc import Iterator

import msgspec

from agent.network.desired import ANY_ADDRESS, PortBinding
from shoal.model.errors import FailedPrecondition, InvalidArgument

_FIRST_RANDOM, _LAST_RANDOM = 32768, 60999
_Key = tuple[str, str, int]


class HeldPorts:
    """The ports this instance has published."""

    def __init__(self) -> None:
        self._held: dict[_Key, socket.socket | None] = {}

    def hold(self, binding: PortBinding) -> PortBinding:
        """Take a port, any free one for port 0; returns the binding with its number.

        Raises:
            FailedPrecondition: the port is taken, by a container or another process.
            InvalidArgument: the address is not one of this host's.
        """
        for port in (binding.host_port,) if binding.host_port else _random_ports(binding):
            taken = msgspec.structs.replace(binding, host_port=port)
            opened = None if self._is_held(taken) else _bind(taken)
            if opened is not None:
                self._held[_key(taken)] = opened.socket
                return taken
        if binding.host_port:
            raise FailedPrecondition(
                f"Bind for {binding.host_ip}:{binding.host_port} failed: "
                "port is already allocated"
            )
        raise FailedPrecondition(
            f"no free {binding.protocol} port from {_FIRST_RANDOM} to {_LAST_RANDOM} "
            f"on {binding.host_ip}"
        )

    def release(self, binding: PortBinding) -> None:
        """Let go of a port; one that is not held is no error."""
        held = self._held.pop(_key(binding), None)
        if held is not None:
            held.close()

    def close(self) -> None:
        """Let go of all."""
        for held in self._held.values():
            if held is not None:
                held.close()
        self._held.clear()

    def _is_held(self, binding: PortBinding) -> bool:
        protocol, address, port = _key(binding)
        return any(
            (protocol, port) == (other[0], other[2])
            and (ANY_ADDRESS in (address, other[1]) or address == other[1])
            for other in self._held
        )


class _Bound(msgspec.Struct, frozen=True):
    """A successful bind; without a socket where the kernel has none of that protocol."""

    socket: socket.socket | None


def _key(binding: PortBinding) -> _Key:
    return (binding.protocol, binding.host_ip, binding.host_port)


def _random_ports(binding: PortBinding) -> Iterator[int]:
    """Ports to try: the kernel's own choice first, then the whole range in order."""
    for _ in range(8):
        bound = _bind(binding)
        if bound is not None and bound.socket is not None:
            with bound.socket:
                port = bound.socket.getsockname()[1]
            if _FIRST_RANDOM <= port <= _LAST_RANDOM:
                yield port
    yield from range(_FIRST_RANDOM, _LAST_RANDOM + 1)


def _bind(binding: PortBinding) -> _Bound | None:
    try:
        opened = _socket(binding.protocol)
    except OSError:
        return _Bound(None)  # no SCTP in this kernel: no process can hold the port either
    try:
        opened.bind((binding.host_ip, binding.host_port))
    except OSError as error:
        opened.close()
        if error.errno == errno.EADDRNOTAVAIL:
            raise InvalidArgument(
                f"{binding.host_ip} is not an address of this host", field="HostIp"
            ) from error
        return None
    return _Bound(opened)


def _socket(protocol: str) -> socket.socket:
    match protocol:
        case "udp":
            opened = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
            # what comes before the rules are there must not pile up
            opened.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1)
            return opened
        case "sctp":
            return socket.socket(socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_SCTP)
        case _:
            return socket.socket(socket.AF_INET, socket.SOCK_STREAM)
