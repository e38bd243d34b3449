"""WireGuard devices of this host: the kernel's, or the userspace program's where it has none.

Both are set by `wg`. The userspace program is a process of its own which outlives the agent, as
the kernel's device does, and ends when its device is deleted. Blocking; called by `encryption`
in the network's thread, so that all of it happens in the host's namespace.
"""

import base64
import errno
import os
import subprocess
import time
from pathlib import Path
from shutil import which

from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey

from agent.network import rtnetlink as rt
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


class WireGuard:
    """Makes and sets devices by name."""

    def __init__(self, channel: Channel) -> None:
        self._channel = channel
        self._programs: dict[str, subprocess.Popen[bytes]] = {}

    def create(self, name: str, mtu: int) -> None:
        """Have a device of this name, up or not. One that is there is kept.

        Raises:
            FailedPrecondition: this host has neither the kernel's WireGuard nor the program.
        """
        if which("wg") is None:
            raise FailedPrecondition(f"encrypted networks need the program wg: {_MISSING}")
        try:
            self._channel.apply([rt.new_device(name, "wireguard", mtu)])
        except OSError as error:
            if error.errno == errno.EEXIST:
                self._revive(name)
                return
            if error.errno not in (errno.EOPNOTSUPP, errno.ENODEV):
                raise
            self._start_program(name)

    def _revive(self, name: str) -> None:
        """A device whose program is gone answers nobody: make it anew."""
        if self._answers(name):
            return
        self.delete(name)
        self._start_program(name)

    def _start_program(self, name: str) -> None:
        program = which("wireguard-go")
        if program is None:
            raise FailedPrecondition(
                "encrypted networks need WireGuard, which this host's kernel has not: "
                + _MISSING
            )
        # A session of its own: it lives on when the agent ends. `-f`: we are its parent.
        running = subprocess.Popen(
            [program, "-f", name],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
            env={"PATH": os.environ.get("PATH", ""), "WG_I_PREFER_BUGGY_USERSPACE": "1"},
        )
        self._programs[name] = running
        deadline = time.monotonic() + _COMMAND_SECONDS
        while not self._answers(name):
            if running.poll() is not None:
                raise FailedPrecondition(
                    f"wireguard-go ended with code {running.returncode} as it should make"
                    f" {name}: is /dev/net/tun there?"
                )
            if time.monotonic() > deadline:
                raise FailedPrecondition(f"wireguard-go did not make {name} in time")
            time.sleep(0.01)

    def _answers(self, name: str) -> bool:
        return _wg("show", name, "listen-port").returncode == 0

    def configure(self, name: str, text: str) -> None:
        """Make key, port and peers of a device be what the text says; nothing else changes."""
        done = _wg("syncconf", name, "/dev/stdin", stdin=text)
        if done.returncode != 0:
            raise Internal(f"wg refused the configuration of {name}: {done.stderr.strip()}")

    def handshakes(self, name: str) -> dict[str, float]:
        """Public key of each peer -> when it answered last, in Unix seconds; 0: never."""
        done = _wg("show", name, "latest-handshakes")
        if done.returncode != 0:
            return {}
        rows = [line.split() for line in done.stdout.splitlines()]
        return {row[0]: float(row[1]) for row in rows if len(row) == 2}

    def private_key(self, name: str) -> str:
        """The key of a device that is there and answers; empty without one."""
        done = _wg("show", name, "private-key")
        found = done.stdout.strip()
        return "" if done.returncode != 0 or found == "(none)" else found

    def delete(self, name: str) -> None:
        """Delete the device, whose program then ends. Idempotent."""
        self._channel.apply([rt.delete_link(name)])
        running = self._programs.pop(name, None)
        if running is not None:
            try:
                running.wait(_COMMAND_SECONDS)
            except subprocess.TimeoutExpired:
                running.kill()
                running.wait()
        (_SOCKETS / f"{name}.sock").unlink(missing_ok=True)


def _wg(*words: str, stdin: str = "") -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        ["wg", *words],
        input=stdin,
        capture_output=True,
        text=True,
        timeout=_COMMAND_SECONDS,
        check=False,
    )
