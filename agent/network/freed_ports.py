"""Hears when a socket on a port that others hold is closed, so that the port is taken at once.

The kernel tells of each socket that ends (`sock_diag`'s groups); a filter in the kernel lets
only those of the watched ports through, and while there is none nothing is asked for. A kernel
that does not tell is no fault: the repair looks every 10 s. Used by `publishing`, in the
namespace of the thread that made it.
"""

import ctypes
import socket
import struct
from collections.abc import Collection

from agent.network.netlink import Events

_NETLINK_SOCK_DIAG = 4
_ENDED = (1, 2, 3, 4)  # TCP and UDP over IPv4, then over IPv6
_SO_ATTACH_FILTER = 26
_SOURCE_PORT = 20
"""Where it stands in a message: after 16 bytes of header and 4 of `inet_diag_msg`."""
_LOAD_HALF, _IF_EQUAL, _RETURN = 0x28, 0x15, 0x06
_ALL, _NONE = 0xFFFFFFFF, 0
_MOST = 1000  # of what a filter may hold; more ports than that are not told apart


class FreedPorts:
    """Whether a port may have become free since last asked."""

    def __init__(self) -> None:
        self._events = Events(_NETLINK_SOCK_DIAG, ())
        self._watched: frozenset[int] = frozenset()

    def fileno(self) -> int:
        """Readable when a socket of a watched port has ended."""
        return self._events.fileno()

    def watch(self, ports: Collection[int]) -> None:
        """Hear of these ports from now on, and of no others."""
        wanted = frozenset(ports)
        if wanted == self._watched:
            return
        if not wanted:
            self._events.leave(_ENDED)
        else:
            self._attach(_filter(wanted))
            if not self._watched:
                self._events.join(_ENDED)
        self._watched = wanted

    def any(self) -> bool:
        """Whether a watched one was let go, perhaps; what was heard is forgotten."""
        heard = self._events.drain()
        return bool(self._watched) and (heard is None or bool(heard))

    def close(self) -> None:
        """Close the socket."""
        self._events.close()

    def _attach(self, code: bytes) -> None:
        held = ctypes.create_string_buffer(code, len(code))
        program = struct.pack("@HP", len(code) // 8, ctypes.addressof(held))
        self._events.set_option(socket.SOL_SOCKET, _SO_ATTACH_FILTER, program)


def _filter(ports: Collection[int]) -> bytes:
    """Classic BPF: everything if the source port is one of them, else nothing."""
    if len(ports) > _MOST:
        return _step(_RETURN, _ALL)
    code = _step(_LOAD_HALF, _SOURCE_PORT)
    for port in sorted(ports):
        code += _step(_IF_EQUAL, port, otherwise=1) + _step(_RETURN, _ALL)
    return code + _step(_RETURN, _NONE)


def _step(code: int, value: int, otherwise: int = 0) -> bytes:
    return struct.pack("=HBBI", code, 0, otherwise, value)
