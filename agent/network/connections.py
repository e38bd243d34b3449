"""The connections that others have to a container, out of its `/proc/PID/net/tcp`. Pure.

They outlive the task's place in names, virtual IPs and ports, and are waited for before its
stop signal.
"""

from collections.abc import Iterable, Iterator

import msgspec

_ESTABLISHED, _BEGUN, _LISTENS = "01", "03", "0A"
_LOOPBACK6 = "00000000000000000000000001000000"


class _Socket(msgspec.Struct, frozen=True):
    port: str
    peer: str
    state: str

    @property
    def of_others(self) -> bool:
        """Whether its other end is not on the container's own loopback."""
        return not self.peer.endswith("7F") and self.peer != _LOOPBACK6


def inbound(tables: Iterable[str]) -> int:
    """How many connections from elsewhere there are to ports that are listened on.

    `tables` are what the kernel says of IPv4 and IPv6 (proc(5), `/proc/net/tcp`), whose
    addresses are words of the host's byte order in hexadecimal digits.
    """
    sockets = [each for table in tables for each in _sockets(table)]
    listened = {each.port for each in sockets if each.state == _LISTENS}
    return sum(
        each.state in (_ESTABLISHED, _BEGUN) and each.port in listened and each.of_others
        for each in sockets
    )


def _sockets(table: str) -> Iterator[_Socket]:
    for line in table.splitlines()[1:]:
        fields = line.split()
        if len(fields) > 3:
            peer, _, _ = fields[2].partition(":")
            yield _Socket(fields[1].rpartition(":")[2], peer, fields[3])
