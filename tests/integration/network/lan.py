"""Containers as network namespaces on one bridge: for what happens inside a container."""

import asyncio
import contextlib
import functools
import os
import socket
import subprocess
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

from agent.network.inside import open_rules
from agent.network.netlink import Channel
from tests.integration.network.lab import Connection, connect, inside, ip

_stem = f"lan{os.getpid()}"
NAMES = ("client", "one", "two", "three")


def path(name: str) -> Path:
    return Path(f"/run/netns/{_stem}{name}")


def address(name: str, family: int = 4) -> str:
    number = NAMES.index(name) + 1
    return f"10.97.0.{number}" if family == 4 else f"fd97::{number}"


def run(name: str, *command: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        ["nsenter", f"--net={path(name)}", *command], capture_output=True, text=True
    )


def rules(name: str) -> str:
    return run(name, "nft", "list", "ruleset").stdout


@contextlib.contextmanager
def lan() -> Iterator[None]:
    fabric = f"{_stem}f"
    try:
        ip(f"netns add {fabric}")
        ip(f"-n {fabric} link add fab type bridge mcast_snooping 0")
        ip(f"-n {fabric} link set fab up")
        for name in NAMES:
            own = f"{_stem}{name}"
            ip(f"netns add {own}")
            ip(f"-n {fabric} link add c{name} master fab type veth peer name eth0 netns {own}")
            ip(f"-n {fabric} link set c{name} up")
            ip(f"-n {own} link set lo up")
            ip(f"-n {own} address add {address(name)}/16 dev eth0")
            ip(f"-n {own} address add {address(name, 6)}/64 dev eth0 nodad")
            ip(f"-n {own} link set eth0 up")
        yield
    finally:
        for each in (*NAMES, "f"):
            if path(each).exists():
                ip(f"netns del {_stem}{each}")


def channel(name: str) -> Channel:
    """To the rules and flows inside."""
    descriptor = os.open(path(name), os.O_RDONLY | os.O_CLOEXEC)
    try:
        return open_rules(descriptor)
    finally:
        os.close(descriptor)


def _tell(name: str, server: socket.socket) -> None:
    with contextlib.suppress(BlockingIOError):
        _, client = server.recvfrom(100)
        server.sendto(name.encode(), client)


async def _greet(name: str, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    with contextlib.suppress(ConnectionError):
        writer.write(f"{name} {writer.get_extra_info('peername')[0]}\n".encode())
        while line := await reader.readline():
            writer.write(line)
    writer.close()


@contextlib.asynccontextmanager
async def serving(*names: str, port: int = 80) -> AsyncIterator[None]:
    """TCP and UDP servers of both families in these containers; they tell their names."""
    loop = asyncio.get_running_loop()
    async with contextlib.AsyncExitStack() as stack:
        for name in names:
            for family in (socket.AF_INET, socket.AF_INET6):
                listener = inside(path(name), functools.partial(_listener, family, port))
                server = await asyncio.start_server(
                    functools.partial(_greet, name), sock=listener
                )
                stack.callback(server.close)
                datagrams = inside(path(name), functools.partial(_datagrams, family, port))
                stack.enter_context(datagrams)
                loop.add_reader(datagrams, _tell, name, datagrams)
                stack.callback(loop.remove_reader, datagrams)
        yield


def _listener(family: int, port: int) -> socket.socket:
    made = socket.socket(family)
    made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    if family == socket.AF_INET6:
        made.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
    made.bind(("::" if family == socket.AF_INET6 else "0.0.0.0", port))
    made.listen(256)
    return made


def _datagrams(family: int, port: int) -> socket.socket:
    made = socket.socket(family, socket.SOCK_DGRAM)
    if family == socket.AF_INET6:
        made.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
    made.bind(("::" if family == socket.AF_INET6 else "0.0.0.0", port))
    return made


async def talk(name: str, target: str, port: int = 80) -> Connection:
    return await connect(path(name), target, port)


async def ask(name: str, target: str, port: int = 80) -> str:
    """Which server answers a new connection."""
    made = await talk(name, target, port)
    await made.close()
    return made.server


@contextlib.contextmanager
def datagrams_to(name: str, target: str, port: int = 80) -> Iterator[socket.socket]:
    family = socket.AF_INET6 if ":" in target else socket.AF_INET
    with inside(path(name), lambda: socket.socket(family, socket.SOCK_DGRAM)) as made:
        made.connect((target, port))
        yield made


async def ask_datagram(made: socket.socket) -> str:
    loop = asyncio.get_running_loop()
    await loop.sock_sendall(made, b"who")
    async with asyncio.timeout(3):
        return (await loop.sock_recv(made, 100)).decode()


@contextlib.contextmanager
def pinging(name: str, target: str) -> Iterator[socket.socket]:
    if ":" in target:
        kind = (socket.AF_INET6, socket.SOCK_RAW, socket.IPPROTO_ICMPV6)
    else:
        kind = (socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_ICMP)
    with inside(path(name), lambda: socket.socket(*kind)) as made:
        made.connect((target, 0))
        made.settimeout(0.1)
        yield made


def ping(made: socket.socket, *, within: int = 20) -> bool:
    """Whether the pinged address answers."""
    family = made.family
    kind, answer, header = (128, 129, 0) if family == socket.AF_INET6 else (8, 0, 20)
    body = bytes([kind, 0, 0, 0, 0x4E, 0x4E, 0, 1])
    total = sum(int.from_bytes(body[n : n + 2], "big") for n in range(0, 8, 2))
    checksum = 0xFFFF - (total & 0xFFFF) - (total >> 16)
    made.send(body[:2] + checksum.to_bytes(2, "big") + body[4:])
    for _ in range(within):
        with contextlib.suppress(TimeoutError):
            received = made.recv(1000)[header:]
            if received[0] == answer and received[4:8] == body[4:8]:
                return True
    return False
