"""Hosts as network namespaces on a bridge in one of its own, and sockets inside them."""

import asyncio
import contextlib
import os
import socket
import subprocess
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from ipaddress import IPv4Network
from pathlib import Path

from agent.network import netns
from agent.network.desired import Attachment, Backend, Endpoint, IngressPort, Mesh, Peer
from agent.network.host_network import HostNetwork

OUTSIDE = "o"
ADDRESSES = {"a": "10.99.0.1", "b": "10.99.0.2", "c": "10.99.0.3", OUTSIDE: "10.99.0.9"}
ADDRESSES6 = {host: f"fd99::{each.rpartition('.')[2]}" for host, each in ADDRESSES.items()}
SUBNETS = {"a": "10.98.1.0/24", "b": "10.98.2.0/24", "c": "10.98.3.0/24"}
LOCAL = IPv4Network("172.29.0.0/16")
PREFIX6 = "fd00:5::/96"
ON_MESH = (Attachment(network="mesh"),)
ON_BRIDGE = (Attachment(network="bridge"),)
_stem = f"nwt{os.getpid()}"


def ip(arguments: str) -> str:
    return subprocess.run(
        ["ip", *arguments.split()], check=True, capture_output=True, text=True
    ).stdout


def namespace(host: str) -> Path:
    return Path(f"/run/netns/{_stem}{host}")


def in_host(host: str, *command: str) -> str:
    return subprocess.run(
        ["nsenter", f"--net={namespace(host)}", *command],
        check=True,
        capture_output=True,
        text=True,
    ).stdout


def set_bridge_filter(host: str, value: str) -> None:
    """Bridge netfilter, where this kernel has it: frames between ports pass the rules."""
    in_host(
        host,
        "sh",
        "-c",
        "for each in ip ip6; do switch=/proc/sys/net/bridge/bridge-nf-call-${each}tables;"
        f" [ ! -e $switch ] || echo {value} >$switch; done",
    )


@contextlib.contextmanager
def hosts() -> Iterator[None]:
    fabric = f"{_stem}f"
    try:
        ip(f"netns add {fabric}")
        ip(f"-n {fabric} link add fab type bridge mcast_snooping 0")
        ip(f"-n {fabric} link set fab up")
        for host, address in ADDRESSES.items():
            name = f"{_stem}{host}"
            ip(f"netns add {name}")
            ip(f"-n {fabric} link add f{host} master fab type veth peer eth0 netns {name}")
            ip(f"-n {fabric} link set f{host} up")
            ip(f"-n {name} link set lo up")
            ip(f"-n {name} address add {address}/24 dev eth0")
            ip(f"-n {name} address add {ADDRESSES6[host]}/64 dev eth0 nodad")
            ip(f"-n {name} link set eth0 up")
        yield
    finally:
        for host in (*ADDRESSES, "f"):
            if namespace(host).exists():
                ip(f"netns del {_stem}{host}")


@contextlib.contextmanager
def cut_off(host: str) -> Iterator[None]:
    """Nothing that others send arrives there."""
    link = f"f{host}"
    ip(f"-n {_stem}f link set {link} down")
    try:
        yield
    finally:
        ip(f"-n {_stem}f link set {link} up")


def network(host: str) -> HostNetwork:
    return HostNetwork(prefix=f"t{host}", local_subnet=LOCAL, namespace=namespace(host))


def mesh(host: str) -> Mesh:
    return Mesh(
        subnet=SUBNETS[host],
        underlay=ADDRESSES[host],
        prefix6=PREFIX6,
        peers=tuple(
            Peer(node=other, underlay=ADDRESSES[other], subnet=SUBNETS[other])
            for other in SUBNETS
            if other != host
        ),
    )


Networks = dict[str, HostNetwork]
"""By host."""


@contextlib.asynccontextmanager
async def meshed_networks() -> AsyncIterator[Networks]:
    """Of all hosts, in one mesh; taken down at the end."""
    networks = {host: network(host) for host in SUBNETS}
    try:
        for host, each in networks.items():
            await each.start()
            await each.set_mesh(mesh(host))
        yield networks
        for each in networks.values():
            await each.destroy()
    finally:
        for each in networks.values():
            await each.stop()


@contextlib.asynccontextmanager
async def running(net: HostNetwork) -> AsyncIterator[None]:
    """Its own repairs run meanwhile."""
    async with asyncio.TaskGroup() as group:
        task = group.create_task(net.run())
        try:
            yield
        finally:
            task.cancel()


def ingress(port: int, *endpoints: Endpoint, to: int = 80) -> IngressPort:
    backends = tuple(Backend(address=each.outward.ipv4, port=to) for each in endpoints)
    return IngressPort(published_port=port, backends=backends)


def inside(path: Path | str, make: Callable[[], socket.socket]) -> socket.socket:
    """A socket made in a namespace; it stays there."""
    made: list[socket.socket] = []

    def work() -> None:
        descriptor = os.open(path, os.O_RDONLY)
        try:
            netns.enter(descriptor)
            made.append(make())
        finally:
            os.close(descriptor)

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert made, f"no socket in {path}"
    made[0].setblocking(False)
    return made[0]


class Server:
    """Tells its name and the client's address, then echoes lines."""

    def __init__(self, name: str) -> None:
        self._name = name
        self._open: list[asyncio.StreamWriter] = []

    def abort(self) -> None:
        """End what clients left open that could not say so any more."""
        for each in self._open:
            each.transport.abort()

    async def handle(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._open.append(writer)
        client = writer.get_extra_info("peername")[0].removeprefix("::ffff:")
        writer.write(f"{self._name} {client}\n".encode())
        with contextlib.suppress(ConnectionError):
            while line := await reader.readline():
                writer.write(line)
        writer.close()


@contextlib.asynccontextmanager
async def serving(path: Path | str, name: str, port: int = 80) -> AsyncIterator[None]:
    listener = inside(path, lambda: _listener(port))
    made = Server(name)
    server = await asyncio.start_server(made.handle, sock=listener)
    try:
        yield
    finally:
        server.close()
        made.abort()


def _listener(port: int) -> socket.socket:
    """For both families; an IPv4 client is told by its IPv4 address."""
    made = socket.socket(socket.AF_INET6)
    made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    made.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
    made.bind(("::", port))
    made.listen()
    return made


class Connection:
    """A client's connection that has heard the server's greeting."""

    def __init__(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, greeting: str
    ) -> None:
        self._reader = reader
        self._writer = writer
        self.server, self.seen_as = greeting.split()

    async def echo(self) -> bool:
        self._writer.write(b"still here\n")
        async with asyncio.timeout(3):
            return await self._reader.readline() == b"still here\n"

    async def close(self) -> None:
        self._writer.close()
        with contextlib.suppress(ConnectionError):
            await self._writer.wait_closed()


async def connect(path: Path | str, address: str, port: int, within: float = 3) -> Connection:
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    made = inside(path, lambda: socket.socket(family))
    try:
        async with asyncio.timeout(within):
            await asyncio.get_running_loop().sock_connect(made, (address, port))
            reader, writer = await asyncio.open_connection(sock=made)
            greeting = await reader.readline()
    except BaseException:
        made.close()
        raise
    return Connection(reader, writer, greeting.decode())


async def ask(path: Path | str, address: str, port: int, within: float = 3) -> tuple[str, str]:
    """Which server answered, and as whom it saw the client."""
    connection = await connect(path, address, port, within)
    await connection.close()
    return connection.server, connection.seen_as


async def reaches(client: Endpoint, address: str, port: int = 80) -> bool:
    """Whether anybody answers a container there within half a second."""
    try:
        await ask(client.netns_path, address, port, within=0.5)
    except (OSError, TimeoutError):
        return False
    return True


async def eventually(condition: Callable[[], bool], within: float = 5) -> None:
    async with asyncio.timeout(within):
        while not condition():  # noqa: ASYNC110 - the kernel tells nobody
            await asyncio.sleep(0.02)


def flows(host: str) -> str:
    """What the host's kernel tracks."""
    return in_host(host, "cat", "/proc/net/nf_conntrack")


def leftovers(host: str) -> str:
    """Everything in a host's namespace that is not its own."""
    links = [
        line.split(":")[1].strip()
        for line in in_host(host, "ip", "-o", "link").splitlines()
        if line.split(":")[1].split("@")[0].strip() not in ("lo", "eth0")
    ]
    return "\n".join(links) + in_host(host, "nft", "list", "ruleset")
