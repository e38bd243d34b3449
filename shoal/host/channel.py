"""The host's end of a child's control channel, and the descriptors kept for the agent.

Made anew at each fork; never blocks. Used by the supervisor.
"""

import os
import socket

import msgspec
import structlog

from shoal.common.host_control import MAX_DESCRIPTORS, MAX_KEPT, MAX_MESSAGE, Call, Reply

_log = structlog.get_logger("shoal.host")


class Channel:
    """One end of a SEQPACKET pair, whose other end the child of that name has."""

    def __init__(self, child: str, end: socket.socket) -> None:
        self.child = child
        self.socket = end
        self.open = True
        end.setblocking(False)

    def receive(self) -> tuple[Call, list[int]] | None:
        """The next request and its descriptors; None if there is none (`open` tells why)."""
        descriptors: list[int] = []
        try:
            data, descriptors, _, _ = socket.recv_fds(
                self.socket, MAX_MESSAGE, MAX_DESCRIPTORS, socket.MSG_CMSG_CLOEXEC
            )
            if data:
                return msgspec.json.decode(data, type=Call), descriptors
            self.close()
        except BlockingIOError:
            pass
        except (OSError, msgspec.MsgspecError) as error:
            _log.error("control channel broken", child=self.child, cause=str(error))
            self.close()
        for descriptor in descriptors:
            os.close(descriptor)
        return None

    def send(self, reply: Reply, descriptors: list[int]) -> None:
        """Reply; a child that is gone, or does not read, misses it."""
        if not self.open:
            return
        try:
            socket.send_fds(self.socket, [msgspec.json.encode(reply)], descriptors)
        except OSError as error:
            _log.warning("reply not delivered", child=self.child, cause=str(error))

    def close(self) -> None:
        self.open = False
        self.socket.close()


class KeptDescriptors:
    """Descriptors under names; owns them."""

    def __init__(self) -> None:
        self._kept: dict[str, int] = {}

    def keep(self, name: str, descriptor: int) -> str:
        """Take it over; a sentence if there are too many, and it is closed."""
        self.drop(name)
        if len(self._kept) >= MAX_KEPT:
            os.close(descriptor)
            return f"the host process keeps {MAX_KEPT} descriptors already, that is all"
        self._kept[name] = descriptor
        return ""

    def drop(self, name: str) -> None:
        if (descriptor := self._kept.pop(name, None)) is not None:
            os.close(descriptor)

    def after(self, name: str) -> list[tuple[str, int]]:
        """As many as fit one message, by name, from the first after `name`."""
        chosen: list[tuple[str, int]] = []
        room = MAX_MESSAGE // 2
        for each in sorted(key for key in self._kept if key > name)[:MAX_DESCRIPTORS]:
            room -= len(each.encode()) + 4
            if room < 0:
                break
            chosen.append((each, self._kept[each]))
        return chosen

    def descriptors(self) -> list[int]:
        return list(self._kept.values())
