"""Published ports in the corners: taken by something else."""

import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from tests.e2e.cluster import Cluster, eventually

pytestmark = [pytest.mark.root, pytest.mark.e2e, pytest.mark.timeout(180)]

LISTEN = """
import socket, sys
made = socket.socket()
made.bind(("0.0.0.0", int(sys.argv[1])))
made.listen()
print("open", flush=True)
sys.stdin.read()
"""


@contextmanager
def another_program(cluster: Cluster, host: str, port: int) -> Iterator[int]:
    """Something that is not ours listens on a host; its pid."""
    netns = f"/run/netns/{cluster.hosts[host]['netns']}"
    with subprocess.Popen(
        ["nsenter", f"--net={netns}", sys.executable, "-c", LISTEN, str(port)],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
    ) as program:  # fmt: skip
        assert program.stdout is not None
        assert program.stdout.readline() == "open\n"
        yield program.pid
        assert program.stdin is not None
        program.stdin.close()


def test_a_port_that_a_host_has_taken_is_told_where_users_look(cluster: Cluster) -> None:
    with another_program(cluster, "w2", 8099) as pid:
        cluster.docker("m1", "service", "create", "-d", "--name", "shop", "-p", "8099:80",
                       "--constraint", "node.hostname==w1", "demo/web:1")  # fmt: skip
        cluster.await_running("m1", "shop", 1, 20)

        def errors() -> str:
            words = ("service", "ps", "shop", "--no-trunc", "--format", "{{.Error}}")
            return cluster.docker("m1", *words)

        said = eventually(errors, lambda text: text != "", 10)
        assert "not published on w2: port 8099/tcp is taken" in said
        assert f"(pid {pid})" in said

        def message() -> str:
            return cluster.docker("m1", "node", "inspect", "-f", "{{.Status.Message}}", "w2")

        assert "port 8099/tcp is taken" in message()
        assert "demo/web:1 on" in cluster.get("m2", 8099)
    eventually(errors, lambda text: text == "", 5)
    assert message() == ""
    eventually(lambda: cluster.get("w2", 8099), lambda text: "demo/web:1 on" in text, 5)
    cluster.docker("m1", "service", "rm", "shop")


def test_ranges(cluster: Cluster) -> None:
    """A container takes one free port of a range, a service all of them."""
    with another_program(cluster, "w2", 8310):
        for name in ("one", "two"):
            cluster.docker("w2", "run", "-d", "--name", name, "-p", "8310-8312:80",
                           "demo/web:1")  # fmt: skip
        ports = [cluster.docker("w2", "port", name) for name in ("one", "two")]
        assert ["0.0.0.0:8311" in ports[0], "0.0.0.0:8312" in ports[1]] == [True, True]
        said = cluster.docker("w2", "run", "--rm", "-p", "8310-8312:80", "demo/web:1",
                              check=False)  # fmt: skip
        assert "Bind for 0.0.0.0:8310-8312 failed: all ports are allocated" in said
        assert "demo/web:1 on" in cluster.get("w2", 8311)
    cluster.docker("w2", "rm", "-f", "one", "two")
    cluster.docker("m1", "service", "create", "-d", "--name", "wide", "-p", "8320-8322:80",
                   "demo/web:1")  # fmt: skip
    cluster.await_running("m1", "wide", 1, 20)
    for port in (8320, 8321, 8322):
        eventually(lambda at=port: cluster.get("w2", at), lambda text: "on" in text, 5)  # type: ignore[misc]
    said = cluster.docker("m1", "service", "create", "-d", "--name", "late", "-p", "8321:80",
                          "demo/web:1", check=False)  # fmt: skip
    assert "port '8321' is already in use by service 'wide'" in said
    cluster.docker("m1", "service", "rm", "wide")
