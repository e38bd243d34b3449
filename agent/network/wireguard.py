"""WireGuard devices of this host: the kernel's, or the userspace program's where it has none.

Both are set by `wg`. The userspace program is a process of its own which outlives the agent, as
the kernel's device does, and ends when its device is deleted. Blocking; called by `encryption`
in the network's thread, so that all of it happens in the host's namespace.
"""

import base64
import errno
import os
import signal
import subprocess
import time
from collections.abc import Mapping
from pathlib import Path
from shutil import which

import msgspec
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey

from agent.network import link_requests
from agent.network.netlink import Channel
from shoal.model.errors import FailedPrecondition, Internal

_SOCKETS = Path("/run/wireguard")
_COMMAND_SECONDS = 5.0
_MISSING = (
    "install Debian's wireguard-tools, and wireguard-go where the kernel has no WireGuard"
)


def new_private_key() -> str:
    """A fresh key, base64 as `wg` writes it."""
    raw, encoding = serialization.PrivateFormat.Raw, serialization.Encoding.Raw
    key = X25519PrivateKey.generate()
    return _text(key.private_bytes(encoding, raw, serialization.NoEncryption()))


def public_key(private_key: str) -> str:
    """The public key that belongs to it."""
    key = X25519PrivateKey.from_private_bytes(base64.b64decode(private_key)).public_key()
    raw, encoding = serialization.PublicFormat.Raw, serialization.Encoding.Raw
    return _text(key.public_bytes(encoding, raw))


def _text(key: bytes) -> str:
    return base64.b64encode(key).decode()


class Found(msgspec.Struct, frozen=True, kw_only=True):
    """A device that is there and answers, as it is.

    Attributes:
        private_key: empty while it has none.
        port: that it listens on; 0 while it listens on none.
        peers: public key -> the addresses that it may send from.
        handshakes: public key -> when it answered last, in Unix seconds; 0: never.
    """

    private_key: str
    port: int
    peers: Mapping[str, str]
    handshakes: Mapping[str, float]


class WireGuard:
    """Makes and sets devices by name."""

    def __init__(self, channel: Channel) -> None:
        self._channel = channel
        self._programs: dict[str, int] = {}

    def create(self, name: str, mtu: int) -> None:
        """Have a device of this name, up or not. One that is there is kept.

        Raises:
            FailedPrecondition: this host has neither the kernel's WireGuard nor the program.
        """
        if which("wg") is None:
            raise FailedPrecondition(f"encrypted networks need the program wg: {_MISSING}")
        if self._answers(name):
            return
        self.delete(name)  # whose program is gone, or another's device of that name
        try:
            self._channel.apply([link_requests.new_device(name, "wireguard", mtu)])
        except OSError as error:
            if error.errno not in (errno.EOPNOTSUPP, errno.ENODEV):
                raise
            self._start_program(name)

    def _start_program(self, name: str) -> None:
        program = which("wireguard-go")
        if program is None:
            raise FailedPrecondition(
                "encrypted networks need WireGuard, which this host's kernel has not: "
                + _MISSING
            )
        # A session of its own: it lives on when the agent ends. `-f`: we are its parent.
        running = os.posix_spawn(
            program,
            [program, "-f", name],
            {"PATH": os.environ.get("PATH", ""), "WG_I_PREFER_BUGGY_USERSPACE": "1"},
            file_actions=[
                (os.POSIX_SPAWN_OPEN, each, os.devnull, os.O_RDWR, 0) for each in range(3)
            ],
            setsid=True,
        )
        self._programs[name] = running
        deadline = time.monotonic() + _COMMAND_SECONDS
        while not self._answers(name):
            code = _ended(running)
            if code is not None:
                del self._programs[name]
                raise FailedPrecondition(
                    f"wireguard-go ended with code {code} as it should make {name}:"
                    " is /dev/net/tun there?"
                )
            if time.monotonic() > deadline:
                raise FailedPrecondition(f"wireguard-go did not make {name} in time")
            time.sleep(0.01)

    def _answers(self, name: str) -> bool:
        return _wg("show", name, "listen-port").returncode == 0

    def configure(self, name: str, text: str) -> None:
        """Make key, port and peers of a device be what the text says; nothing else changes."""
        done = _wg("syncconf", name, "/dev/stdin", stdin=text)
        if done.returncode == 0:
            return
        said = done.stderr.strip()
        if "in use" in said:
            port = text.partition("ListenPort = ")[2].partition("\n")[0]
            raise FailedPrecondition(
                f"encrypted networks need UDP port {port}, which another program has on this"
                " host"
            )
        raise Internal(f"wg refused the configuration of {name}: {said}")

    def find(self, name: str) -> Found | None:
        """The device as it is; None where it is not there or does not answer."""
        done = _wg("show", name, "dump")
        if done.returncode != 0 or not done.stdout:
            return None
        first, *rest = [line.split("\t") for line in done.stdout.splitlines()]
        return Found(
            private_key="" if first[0] == "(none)" else first[0],
            port=int(first[2]),
            peers={row[0]: row[3] for row in rest},
            handshakes={row[0]: float(row[4]) for row in rest},
        )

    def delete(self, name: str) -> None:
        """Delete the device, whose program then ends. Idempotent."""
        self._channel.apply([link_requests.delete_link(name)])
        running = self._programs.pop(name, None)
        if running is not None:
            deadline = time.monotonic() + _COMMAND_SECONDS
            while _ended(running) is None:
                if time.monotonic() > deadline:
                    os.kill(running, signal.SIGKILL)
                time.sleep(0.005)
        (_SOCKETS / f"{name}.sock").unlink(missing_ok=True)


def _ended(pid: int) -> int | None:
    """With which code a child ended; None while it runs."""
    try:
        found, status = os.waitpid(pid, os.WNOHANG)
    except ChildProcessError:
        return 0  # somebody else asked first
    return os.waitstatus_to_exitcode(status) if found else None


def _wg(*words: str, stdin: str = "") -> subprocess.CompletedProcess[str]:
    command = ["wg", *words]
    try:
        return subprocess.run(
            command,
            input=stdin,
            capture_output=True,
            text=True,
            timeout=_COMMAND_SECONDS,
            check=False,
        )
    except FileNotFoundError:
        return subprocess.CompletedProcess(command, 127, "", "there is no program wg")
    except subprocess.TimeoutExpired:
        return subprocess.CompletedProcess(command, 124, "", "no answer in time")
