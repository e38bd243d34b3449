"""A bare host through the stock CLI: a person's containers, our daemons dying under them."""

import json
import os
import signal
from pathlib import Path

import pytest

from shoal.common.clock import SystemClock
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


def test_what_is_kept_of_output(host: Cluster) -> None:
    host.docker("m1", "run", "-d", "--name", "quiet", "--log-driver", "none", "busybox", "id")
    assert "does not support reading" in host.docker("m1", "logs", "quiet", check=False)
    details = ("--label", "team=a", "--log-opt", "labels=team", "--log-opt", "tag={{.Name}}")
    assert host.docker("m1", "run", "--name", "told", *details, "busybox", "echo", "x") == "x"
    assert host.docker("m1", "logs", "--details", "told") == "tag=told,team=a x"
    said = host.docker("m1", "run", "--log-opt", "nope=1", "busybox", "id", check=False)
    assert "unknown log opt 'nope' for json-file log driver" in said
    host.docker("m1", "rm", "-f", "quiet", "told")


def test_a_privileged_container_has_what_the_host_can_give(host: Cluster) -> None:
    look = "grep CapEff /proc/self/status; ls /dev/loop-control"
    said = host.docker("m1", "run", "--rm", "--privileged", "busybox", "sh", "-c", look)
    own = Path("/proc/self/status").read_text()
    bounding = next(line.split()[1] for line in own.splitlines() if line.startswith("CapBnd"))
    assert bounding in said
    assert said.endswith("/dev/loop-control") == Path("/dev/loop-control").exists()


def test_a_volume_with_options_is_mounted_while_it_is_used(host: Cluster) -> None:
    options = ("-o", "type=tmpfs", "-o", "device=tmpfs", "-o", "o=size=1m")
    host.docker("m1", "volume", "create", *options, "quick")
    place = host.docker("m1", "volume", "inspect", "-f", "{{.Mountpoint}}", "quick")
    for name in ("one", "two"):
        host.docker(
            "m1", "run", "-d", "--name", name, "-v", "quick:/q", "busybox", "sleep", "60"
        )
    host.docker("m1", "exec", "one", "touch", "/q/from-one")
    host.docker("m1", "rm", "-f", "one")
    assert host.docker("m1", "exec", "two", "ls", "/q") == "from-one"
    host.docker("m1", "rm", "-f", "two")
    assert not os.listdir(place)
    host.docker("m1", "volume", "rm", "quick")


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


def test_an_exec_is_known_again_by_the_next_agent(host: Cluster) -> None:
    host.docker("m1", "run", "-d", "--name", "holds", "busybox", "sleep", "600")
    host.docker("m1", "exec", "-d", "holds", "sh", "-c", "sleep 4; exit 3")
    (one,) = json.loads(host.docker("m1", "inspect", "-f", "{{json .ExecIDs}}", "holds"))
    agent = host.pids("m1")["agent"]
    assert agent is not None
    os.kill(agent, signal.SIGKILL)
    eventually(lambda: host.pids("m1")["agent"], lambda pid: pid not in (None, agent), 10)
    seen = eventually(lambda: host.call("m1", f"/exec/{one}/json"), bool, 10)
    assert (seen["Running"], seen["ExitCode"]) == (True, None)
    assert seen["ProcessConfig"]["arguments"] == ["-c", "sleep 4; exit 3"]
    ended = eventually(
        lambda: host.call("m1", f"/exec/{one}/json"), lambda now: not now["Running"], 10
    )
    assert ended["ExitCode"] == 3
    host.docker("m1", "rm", "-f", "holds")


@pytest.mark.parametrize(
    ("command", "code", "sentence"),
    [
        (["nosuch"], 127, 'exec: "nosuch": executable file not found in $PATH'),
        (["/etc/passwd"], 126, 'exec: "/etc/passwd": permission denied'),
    ],
)
def test_what_cannot_start_says_so_at_once(
    host: Cluster, command: list[str], code: int, sentence: str
) -> None:
    for flags in ([], ["-i"], ["-t"], ["-d"]):
        done = host.run("m1", "run", "--rm", *flags, "busybox", *command)
        assert (done.returncode, sentence in done.stderr) == (code, True), done
    assert host.docker("m1", "ps", "-aq") == ""


def test_cluster_commands_say_what_to_do(host: Cluster) -> None:
    said = host.docker("m1", "service", "ls", check=False)
    assert "This node is not a swarm manager" in said


def test_a_new_cluster_is_ready_at_once_on_the_port_asked_for(host: Cluster) -> None:
    address = f"{host.hosts['m1']['address']}:14002"
    said = host.docker("m1", "swarm", "init", "--listen-addr", "0.0.0.0:14002")
    try:
        assert f" {address}\n" in said
        form = "{{.Status}} {{.ManagerStatus}}"
        assert host.docker("m1", "node", "ls", "--format", form) == "Ready Leader"
        assert (
            host.docker("m1", "node", "inspect", "self", "-f", "{{.ManagerStatus.Addr}}")
            == address
        )
    finally:
        host.docker("m1", "swarm", "leave", "--force")
    form = "{{.Swarm.LocalNodeState}}"
    assert host.docker("m1", "info", "-f", form) == "inactive"


def test_a_forced_removal_kills_once_and_an_ended_container_uses_nothing(host: Cluster) -> None:
    began = _now()
    name = host.docker("m1", "run", "-d", "--name", "brief", "busybox", "sleep", "60")
    host.docker("m1", "rm", "-f", "brief")
    told = host.docker("m1", "events", "--since", began, "--until", _now(),
                       "--filter", f"container={name}", "--format", "{{.Action}}")  # fmt: skip
    assert told.split().count("kill") == 1
    ended = host.docker("m1", "create", "busybox")
    stats = host.call("m1", f"/containers/{ended}/stats?stream=false")
    assert stats["cpu_stats"]["cpu_usage"]["total_usage"] == 0
    assert stats["memory_stats"] == {}
    host.docker("m1", "rm", ended)


def _now() -> str:
    return str(SystemClock().now().timestamp())
