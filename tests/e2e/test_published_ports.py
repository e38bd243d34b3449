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
