"""A real firewalld on a lab host, with a bus of its own (unpacked, not installed)."""

import contextlib
import os
import shutil
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.integration.network.lab import namespace

ROOT = Path(__file__).parents[3]
UNPACKED = ROOT / ".venv" / "firewalld"
"""Where `./scripts/install --dev` puts it."""
_MODULES = UNPACKED / "usr" / "lib" / "python3" / "dist-packages"
_BUS = """<!DOCTYPE busconfig PUBLIC "-//freedesktop//DTD D-Bus Bus Configuration 1.0//EN"
 "http://www.freedesktop.org/standards/dbus/1.0/busconfig.dtd">
<busconfig>
  <type>system</type>
  <listen>unix:path={path}</listen>
  <auth>EXTERNAL</auth>
  <policy context="default">
    <allow own="*"/><allow user="*"/>
    <allow send_destination="*"/><allow receive_sender="*"/>
  </policy>
</busconfig>
"""
_COMMAND = """#!/bin/sh
export DBUS_SYSTEM_BUS_ADDRESS=unix:path={path} PYTHONPATH={modules}
exec nsenter --net={netns} /usr/bin/python3 {program} "$@"
"""


class Firewalld:
    """What guards a host; `command` is its firewall-cmd."""

    def __init__(self, command: Path) -> None:
        self._command = command

    def __call__(self, *words: str) -> str:
        done = subprocess.run(
            [str(self._command), *words], check=True, capture_output=True, text=True, timeout=30
        )
        return done.stdout.strip()

    def trusts(self, bridges: str) -> bool:
        words = ("--zone=trusted", f"--query-interface={bridges}")
        done = subprocess.run(
            [str(self._command), *words], capture_output=True, timeout=30, check=False
        )
        return done.returncode == 0


@contextlib.contextmanager
def firewalld(
    host: str, directory: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Firewalld]:
    """It guards the host until the block ends; `firewall-cmd` is on the agent's path."""
    bus, netns = directory / "bus", namespace(host)
    (directory / "bus.conf").write_text(_BUS.format(path=bus))
    shutil.copytree(UNPACKED / "etc" / "firewalld", directory / "etc")
    bin_directory = directory / "bin"
    bin_directory.mkdir()
    command = bin_directory / "firewall-cmd"
    program = UNPACKED / "usr" / "bin" / "firewall-cmd"
    command.write_text(
        _COMMAND.format(path=bus, modules=_MODULES, netns=netns, program=program)
    )
    command.chmod(0o755)
    environment = {
        **os.environ,
        "DBUS_SYSTEM_BUS_ADDRESS": f"unix:path={bus}",
        "PYTHONPATH": str(_MODULES),
    }
    daemon = [
        *("nsenter", f"--net={netns}", str(UNPACKED / "usr" / "sbin" / "firewalld")),
        *("--nofork", "--nopid", f"--log-file={directory / 'log'}"),
        f"--default-config={UNPACKED / 'usr' / 'lib' / 'firewalld'}",
        f"--system-config={directory / 'etc'}",
    ]
    buses = [
        "dbus-daemon",
        f"--config-file={directory / 'bus.conf'}",
        "--nofork",
        "--nopidfile",
    ]
    with _running(buses, environment), _running(daemon, environment) as guard:
        made = Firewalld(command)
        _await_state(made, guard, directory / "log")
        monkeypatch.setenv("PATH", f"{bin_directory}:{os.environ['PATH']}")
        try:
            yield made
        finally:
            monkeypatch.undo()


@contextlib.contextmanager
def _running(
    words: list[str], environment: dict[str, str]
) -> Iterator["subprocess.Popen[bytes]"]:
    with subprocess.Popen(words, env=environment, stderr=subprocess.DEVNULL) as started:
        try:
            yield started
        finally:
            started.terminate()


def _await_state(made: Firewalld, guard: "subprocess.Popen[bytes]", log: Path) -> None:
    deadline = time.monotonic() + 30
    while True:
        with contextlib.suppress(subprocess.CalledProcessError):
            made("--state")
            return
        told = log.read_text() if log.exists() else ""
        assert guard.poll() is None, f"firewalld has ended: {told}"
        assert time.monotonic() < deadline, f"firewalld does not answer: {told}"
        time.sleep(0.1)


def missing() -> str:
    """Why it cannot run here; empty if it can."""
    if not UNPACKED.exists():
        return "needs firewalld: ./scripts/install --dev unpacks it"
    modules = subprocess.run(
        ["/usr/bin/python3", "-c", "import dbus, gi"],
        capture_output=True,
        check=False,
    )
    if modules.returncode != 0 or shutil.which("dbus-daemon") is None:
        return "needs dbus-daemon, python3-dbus, python3-gi"
    return ""
