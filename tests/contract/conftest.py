"""What the contract suites run against: a real etcd in a temporary directory, or the fake."""

import asyncio
import os
import random
import shutil
import socket
import subprocess
import time
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

from manager.store.etcd import SOCKET_NAME, connect, unix_target
from manager.store.kv import KV
from manager.store.simulated import SimulatedEtcd

ETCD_FLAGS = (
    "--listen-client-urls=unix://localhost:2379",
    "--advertise-client-urls=unix://localhost:2379",
    "--max-txn-ops=4096",
    "--max-request-bytes=4194304",
    "--auto-compaction-mode=periodic",
    "--auto-compaction-retention=10m",
    "--quota-backend-bytes=4294967296",
    "--heartbeat-interval=100",
    "--election-timeout=500",
    "--logger=zap",
    "--log-level=error",
)


def wait_until_healthy(directory: Path, seconds: float = 60.0) -> None:
    """Return once the etcd of that working directory takes writes."""
    deadline = time.monotonic() + seconds
    command = [
        "etcdctl",
        f"--endpoints={ETCD_FLAGS[1].partition('=')[2]}",
        "endpoint",
        "health",
    ]
    environment = {**os.environ, "ETCDCTL_API": "3"}
    while True:
        asked = subprocess.run(
            command, cwd=directory, env=environment, capture_output=True, check=False
        )
        if asked.returncode == 0:
            return
        if time.monotonic() > deadline:
            raise TimeoutError(f"etcd is not healthy: {asked.stderr.decode()}")


@pytest.fixture(scope="session")
def etcd_directory(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """The working directory of one real etcd for the whole run."""
    if shutil.which("etcd") is None:
        pytest.skip("etcd is not installed")
    directory = tmp_path_factory.mktemp("etcd")
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        peer = f"http://127.0.0.1:{probe.getsockname()[1]}"
    with (directory / "log").open("wb") as log:
        process = subprocess.Popen(
            [
                "etcd",
                "--name=m1",
                "--data-dir=data",
                f"--listen-peer-urls={peer}",
                f"--initial-advertise-peer-urls={peer}",
                f"--initial-cluster=m1={peer}",
                *ETCD_FLAGS,
            ],
            cwd=directory,
            stdout=log,
            stderr=log,
        )
    try:
        wait_until_healthy(directory)
        yield directory
    finally:
        process.kill()
        process.wait()


async def _answering(store: KV, directory: Path) -> None:
    """Wait until the etcd that was just started serves; its socket appears first."""
    async with asyncio.timeout(20):
        while not (directory / SOCKET_NAME).exists() or not (await store.status()).leader:  # noqa: ASYNC110
            await asyncio.sleep(0.02)


@pytest.fixture(params=["etcd", "simulated"])
async def store(request: pytest.FixtureRequest) -> AsyncIterator[KV]:
    """Each implementation of the seam in turn."""
    if request.param == "simulated":
        yield SimulatedEtcd(random.Random(1)).client()
        return
    directory = request.getfixturevalue("etcd_directory")
    async with connect(unix_target(directory)) as real:
        await _answering(real, directory)
        yield real


@pytest.fixture
def root(request: pytest.FixtureRequest) -> bytes:
    """A prefix of the test's own, since all tests share one etcd."""
    return f"{request.node.name}/".encode()
