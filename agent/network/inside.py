"""Sockets in a container's namespace. The calling thread visits it and comes back.

A socket stays where it was made, and pins the namespace as long as anybody has it open.
"""

import fcntl
import os
import socket
from collections.abc import Callable
from typing import TypeVar

from agent.network.dns import RESOLVER
from agent.network.netlink import NETLINK_NETFILTER, Channel
from agent.network.netns import visiting
from agent.network.resolver import Sockets
from agent.network.sysctls import forget_unanswered

_PORT = 53
_WAITING = 64
_NAMESPACE_OF_SOCKET = 0x894C
T = TypeVar("T")


def open_rules(descriptor: int) -> Channel:
    """A channel to the rules and flows of a namespace, which are made ready for virtual IPs."""
    return _visit(descriptor, _prepare_rules)


def _prepare_rules() -> Channel:
    forget_unanswered()
    return Channel(NETLINK_NETFILTER)


def open_sockets(beside: int) -> Sockets:
    """The name server's sockets in the namespace of another socket.

    Raises:
        OSError: EADDRINUSE if something else has the port.
    """
    return _visit_beside(beside, _listen)


def open_beside(beside: int, family: int, kind: int) -> socket.socket:
    """A socket in the namespace of another one."""
    flags = socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC
    return _visit_beside(beside, lambda: socket.socket(family, kind | flags))


def _visit_beside(beside: int, work: Callable[[], T]) -> T:
    descriptor = fcntl.ioctl(beside, _NAMESPACE_OF_SOCKET)
    try:
        return _visit(descriptor, work)
    finally:
        os.close(descriptor)


def _visit(descriptor: int, work: Callable[[], T]) -> T:
    with visiting(descriptor):
        return work()


def _listen() -> Sockets:
    datagrams = socket.socket(socket.AF_INET, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK)
    try:
        datagrams.bind((RESOLVER, _PORT))
        listener = socket.socket(socket.AF_INET, socket.SOCK_STREAM | socket.SOCK_NONBLOCK)
        try:
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            listener.bind((RESOLVER, _PORT))
            listener.listen(_WAITING)
        except BaseException:
            listener.close()
            raise
    except BaseException:
        datagrams.close()
        raise
    return Sockets(datagrams, listener)
