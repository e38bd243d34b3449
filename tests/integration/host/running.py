"""A real host process in directories of its own, and the questions tests ask about it."""

import json
import os
import select
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from shoal.common.config import HostConfig, encode_config

TRIVIAL = "tests.integration.host.programs.trivial"
_ROOT = Path(__file__).parents[3]
_START = """
import sys
from shoal.common.config import decode_config
from shoal.common.log import set_up
from shoal.host.processes import Programs
from shoal.host.run import run_host
from shoal.model.errors import ClusterError
set_up("host", as_json=True)
try:
    programs = Programs(agent=sys.argv[2], manager=sys.argv[3], shared=tuple(sys.argv[4:]))
    run_host(decode_config(sys.argv[1]), programs)
except ClusterError as error:
    sys.exit(f"shoal: {error}")
"""


class RunningHost:
    """One host process and its directories."""

    def __init__(
        self,
        config: HostConfig,
        agent: str = TRIVIAL,
        manager: str = TRIVIAL,
        shared: Sequence[str] = (TRIVIAL,),
    ) -> None:
        self.config = config
        self.log = Path(config.run).with_name("host.log")
        command = [sys.executable, "-c", _START, encode_config(config), agent, manager]
        command += shared
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(command, cwd=_ROOT, stderr=log)

    def pids(self) -> dict[str, int | None]:
        try:
            pids: dict[str, int | None] = json.loads(
                (Path(self.config.run) / "pids.json").read_bytes()
            )
        except FileNotFoundError:
            return {}
        return pids if pids["host"] == self.process.pid else {}

    def wait_pid(self, name: str, other_than: int = 0) -> int:
        pid = until(lambda: self.pids().get(name) not in (None, other_than), self.log)
        assert pid
        found = self.pids()[name]
        assert found is not None
        return found

    def ask(self, child: str, order: Mapping[str, Any]) -> dict[str, Any]:
        deadline = time.monotonic() + 10
        while True:
            with socket.socket(socket.AF_UNIX) as connection:
                try:
                    connection.connect(f"{self.config.run}/{child}.sock")
                except (FileNotFoundError, ConnectionRefusedError):
                    assert time.monotonic() < deadline, self.log.read_text()
                    time.sleep(0.005)
                    continue
                connection.sendall(json.dumps(order).encode() + b"\n")
                reply: dict[str, Any] = json.loads(connection.makefile().readline() or "{}")
                return reply

    def events(self, event: str) -> list[dict[str, Any]]:
        """The lines the host has logged for an event."""
        lines = [
            json.loads(line) for line in self.log.read_text().splitlines() if line[:1] == "{"
        ]
        return [line for line in lines if line.get("event") == event]

    def kill(self) -> None:
        self.process.kill()
        self.process.wait(10)

    def end(self) -> None:
        if self.process.poll() is None:
            self.process.terminate()
            self.process.wait(30)


def until(condition: Callable[[], bool], log: Path | None = None, limit: float = 15) -> bool:
    deadline = time.monotonic() + limit
    while not condition():
        if time.monotonic() > deadline:
            raise AssertionError(log.read_text() if log else "not in time")
        time.sleep(0.005)
    return True


def gone(pid: int, limit: float = 10) -> bool:
    """Whether a process ends within the limit; waits on the process itself."""
    try:
        pidfd = os.pidfd_open(pid)
    except ProcessLookupError:
        return True
    try:
        return bool(select.select([pidfd], [], [], limit)[0])
    finally:
        os.close(pidfd)


@contextmanager
def host(directory: Path, agent: str = TRIVIAL, /, **settings: Any) -> Iterator[RunningHost]:
    config = HostConfig(
        state=str(directory / "state"),
        run=str(directory / "run"),
        **{"address": "127.0.0.1", "hostname": "one", **settings},
    )
    directory.mkdir(exist_ok=True)
    running = RunningHost(config, agent=agent)
    try:
        yield running
    finally:
        running.end()
