"""One sandbox of 3 managers and 2 workers for the whole run, and the demo images."""

import os
import subprocess
from collections.abc import Iterator

import pytest

from tests.e2e.cluster import ROOT, Cluster

IMAGES = ("busybox-latest", "demo-sleep-1", "demo-web-1", "demo-web-2", "demo-fail-1")


@pytest.fixture(scope="session")
def images() -> None:
    """The demo images, built."""
    subprocess.run([str(ROOT / "scripts" / "images")], cwd=ROOT, check=True, timeout=120)


@pytest.fixture(scope="session")
def cluster(images: None) -> Iterator[Cluster]:
    """Five hosts in a cluster; nothing of them is left afterwards."""
    found = Cluster(f"e{os.getpid() % 100000}")
    try:
        found.up(3, 2)
        for image in IMAGES:
            found.load(image)
        yield found
    finally:
        found.sandbox("down")


@pytest.fixture(scope="session")
def host(images: None) -> Iterator[Cluster]:
    """One host in no cluster."""
    found = Cluster(f"b{os.getpid() % 100000}")
    try:
        found.up(1, 0, "--bare")
        found.load("busybox-latest")
        yield found
    finally:
        found.sandbox("down")
