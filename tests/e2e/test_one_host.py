"""A bare host through the stock CLI: a person's containers, our daemons dying under them."""

import os
import signal

import pytest

from tests.e2e.cluster import Cluster, eventually

pytestmark = [pytest.mark.root, pytest.mark.e2e, pytest.mark.timeout(180)]

COUNT = "i=0; while true; do echo line $i; i=$((i+1)); sleep 0.1; done"


def test_run_and_remove(host: Cluster) -> None:
    assert host.docker("m1", "run", "--rm", "busybox", "echo", "hello") == "hello"
    assert host.docker("m1", "run", "-i", "--rm", "busybox", "cat", stdin="piped") == "piped"
    assert "exit status" in host.docker(
        "m1", "run", "--rm", "busybox", "nosuch", check=False
    ) or (
        "executable file not found"
        in host.docker("m1", "run", "--rm", "busybox", "nosuch", check=False)
    )
    assert host.docker("m1", "ps", "-aq") == ""


def test_exec_logs_and_stop(host: Cluster) -> None:
    host.docker("m1", "run", "-d", "--name", "talks", "busybox", "sh", "-c", COUNT)
    assert host.docker("m1", "exec", "-i", "talks", "cat", stdin="in and out") == "in and out"
    eventually(lambda: host.docker("m1", "logs", "talks"), lambda text: "line 3" in text, 10)
    host.docker("m1", "stop", "-t", "1", "talks")
    assert host.docker("m1", "inspect", "-f", "{{.State.Status}}", "talks") == "exited"
    host.docker("m1", "rm", "talks")


def test_containers_outlive_agent_and_host_process(host: Cluster) -> None:
    host.docker("m1", "run", "-d", "--name", "lives", "busybox", "sh", "-c", COUNT)
    host.docker("m1", "run", "-d", "--name", "ends", "busybox", "sh", "-c", "sleep 2; exit 7")
    facts = "{{.State.Pid}} {{.State.StartedAt}}"
    before = host.docker("m1", "inspect", "-f", facts, "lives")
    agent = host.pids("m1")["agent"]
    assert agent is not None
    os.kill(agent, signal.SIGKILL)
    eventually(lambda: host.pids("m1")["agent"], lambda pid: pid not in (None, agent), 10)
    eventually(
        lambda: host.docker("m1", "inspect", "-f", facts, "lives", check=False).strip(),
        lambda seen: seen == before,
        10,
    )
    host.sandbox("kill", "m1", "host")
    host.sandbox("start", "m1")
    assert host.docker("m1", "inspect", "-f", facts, "lives") == before
    eventually(
        lambda: host.docker("m1", "inspect", "-f", "{{.State.ExitCode}}", "ends"),
        lambda code: code == "7",
        10,
    )
    lines = [int(line.split()[1]) for line in host.docker("m1", "logs", "lives").splitlines()]
    assert lines == list(range(len(lines)))
    host.docker("m1", "rm", "-f", "lives", "ends")


def test_cluster_commands_say_what_to_do(host: Cluster) -> None:
    said = host.docker("m1", "service", "ls", check=False)
    assert "This node is not a swarm manager" in said
