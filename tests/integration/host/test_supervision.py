"""The host process with trivial children and a real etcd: restarts, roles, locks, the end."""

import json
import os
import signal
import subprocess
import time
from pathlib import Path

import pytest

from tests.integration.host.running import RunningHost, gone, host

pytestmark = pytest.mark.root
PROGRAMS = "tests.integration.host.programs"


def etcd_command(port: int) -> list[str]:
    peer = f"http://127.0.0.1:{port}"
    return [
        "etcd",
        "--name=one",
        "--data-dir=data",
        "--listen-client-urls=unix://localhost:2379",
        "--advertise-client-urls=unix://localhost:2379",
        f"--listen-peer-urls={peer}",
        f"--initial-advertise-peer-urls={peer}",
        f"--initial-cluster=one={peer}",
    ]


def test_a_killed_child_has_one_successor_at_once(tmp_path: Path) -> None:
    with host(tmp_path) as running:
        first = running.wait_pid("agent")
        started = time.monotonic()
        os.kill(first, signal.SIGKILL)
        second = running.wait_pid("agent", first)
        assert time.monotonic() - started < 0.5
        assert running.ask("agent", {})["pids"] == [second, None, None]
        assert children_of(running.process.pid) == [second]
        assert [e["cause"] for e in running.events("child ended unasked")] == [
            "killed by SIGKILL"
        ]


def test_a_child_that_ends_by_itself_is_restarted_and_its_cause_logged(tmp_path: Path) -> None:
    with host(tmp_path) as running:
        first = running.wait_pid("agent")
        running.ask("agent", {"exit": 3})
        second = running.wait_pid("agent", first)
        assert children_of(running.process.pid) == [second]
        assert running.events("child ended unasked")[0]["cause"] == "exit status 3"


def test_the_manager_comes_and_goes_as_the_agent_asks(tmp_path: Path) -> None:
    with host(tmp_path) as running:
        _, manager, _ = running.ask("agent", {"start_manager": True})["pids"]
        assert running.ask("agent", {"start_manager": True})["pids"][1] == manager
        refused = running.ask("manager", {"stop_manager": True})
        assert refused == {
            "error": "the manager may not start or stop the manager: the agent may"
        }
        assert running.ask("agent", {"stop_manager": True})["pids"][1] is None
        assert gone(manager)
        assert roles(running) == {"manager": False, "etcd": None}


def test_children_die_with_a_killed_host_and_return_with_the_next(tmp_path: Path) -> None:
    port = 21384
    with host(tmp_path) as running:
        running.ask("agent", {"start_manager": True})
        before = running.ask("manager", {"start_etcd": etcd_command(port)})["pids"]
        assert None not in before
        running.kill()
        with host(tmp_path) as again:
            names = ("agent", "manager", "etcd")
            after = [again.wait_pid(name) for name in names]
            assert all(gone(pid, 0) for pid in before)
            assert not set(before) & set(after)
            assert len(children_of(again.process.pid)) == 3
            state = Path(again.config.state)
            assert state.joinpath("etcd").stat().st_mode & 0o777 == 0o700
            assert Path(f"/proc/{after[2]}/oom_score_adj").read_text() == lowest_oom_score()
            slack = [Path(f"/proc/{pid}/timerslack_ns").read_text().strip() for pid in after]
            assert slack == ["50000", "50000", "1000000"]  # an agent's goes on to containers
            assert again.ask("manager", {"stop_etcd": True})["pids"][2] is None
            assert not state.joinpath("etcd").exists()
            assert roles(again) == {"manager": True, "etcd": None}


def test_a_killed_etcd_has_one_successor(tmp_path: Path) -> None:
    with host(tmp_path) as running:
        etcd = running.ask("agent", {"start_etcd": etcd_command(21385)})["pids"][2]
        again = running.ask("agent", {"start_etcd": etcd_command(21385)})["pids"][2]
        assert again == etcd
        os.kill(etcd, signal.SIGKILL)
        successor = running.wait_pid("etcd", etcd)
        other = running.ask("agent", {"start_etcd": [*etcd_command(21385), "--log-level=warn"]})
        assert other["pids"][2] not in (None, etcd, successor)
        assert gone(successor, 0)


def test_flags_for_once_are_not_repeated(tmp_path: Path) -> None:
    with host(tmp_path) as running:
        order = {"start_etcd": etcd_command(21386), "once": ["--force-new-cluster"]}
        first = running.ask("agent", order)["pids"][2]
        assert b"--force-new-cluster" in Path(f"/proc/{first}/cmdline").read_bytes()
        os.kill(first, signal.SIGKILL)
        second = running.wait_pid("etcd", first)
        assert b"--force-new-cluster" not in Path(f"/proc/{second}/cmdline").read_bytes()
        assert "--force-new-cluster" not in json.dumps(roles(running))


def test_a_program_that_is_not_there_is_refused_and_forgotten(tmp_path: Path) -> None:
    with host(tmp_path) as running:
        reply = running.ask("agent", {"start_etcd": ["/nonexistent/etcd"]})
        assert "etcd cannot be started" in reply["error"]
        assert roles(running) == {"manager": False, "etcd": None}
        assert len(children_of(running.process.pid)) == 1


def test_a_second_host_on_the_same_state_is_refused(tmp_path: Path) -> None:
    with host(tmp_path) as running:
        running.wait_pid("agent")
        second = RunningHost(running.config)
        assert second.process.wait(10) == 1
        sentence = f"belongs to the host process {running.process.pid}, which is running"
        assert sentence in running.log.read_text()
        assert len(children_of(running.process.pid)) == 1


def test_a_terminated_host_ends_its_children_in_order(tmp_path: Path) -> None:
    with host(tmp_path) as running:
        running.ask("agent", {"start_manager": True})
        running.ask("agent", {"start_etcd": etcd_command(21387)})
        pids = [pid for pid in running.pids().values() if pid]
        running.end()
        assert running.process.returncode == 0
        assert all(gone(pid, 0) for pid in pids)
        ended = running.events("child ended")
        assert [line["child"] for line in ended] == ["manager", "agent", "etcd"]
        assert not (Path(running.config.run) / "pids.json").exists()


def test_kept_descriptors_outlive_the_agent(tmp_path: Path) -> None:
    with host(tmp_path) as running:
        first = running.wait_pid("agent")
        for number in range(300):
            assert running.ask("agent", {"keep": f"dns-{number:03}"}) == {}
        running.ask("agent", {"drop": "dns-007"})
        os.kill(first, signal.SIGKILL)
        running.wait_pid("agent", first)
        taken = running.ask("agent", {"take": True})
        assert taken == {f"dns-{n:03}": f"dns-{n:03}" for n in range(300) if n != 7}


def test_a_missing_program_is_named(tmp_path: Path) -> None:
    with host(tmp_path) as running:
        running.wait_pid("agent")
        running.end()
        broken = RunningHost(running.config, manager="manager.absent")
        assert broken.process.wait(10) == 1
        assert "module manager.absent cannot be imported" in running.log.read_text()


def test_an_image_with_threads_is_refused(tmp_path: Path) -> None:
    with host(tmp_path) as running:
        running.wait_pid("agent")
        running.end()
        broken = RunningHost(running.config, shared=[f"{PROGRAMS}.threaded"])
        assert broken.process.wait(10) == 1
        assert f"importing {PROGRAMS}.threaded started 1 threads" in running.log.read_text()


def roles(running: RunningHost) -> object:
    return json.loads((Path(running.config.state) / "roles.json").read_bytes())


def children_of(pid: int) -> list[int]:
    text = Path(f"/proc/{pid}/task/{pid}/children").read_text()
    return sorted(int(each) for each in text.split())


def lowest_oom_score() -> str:
    """What -900 becomes here: without CAP_SYS_RESOURCE it is refused."""
    script = "echo -900 2>/dev/null >/proc/self/oom_score_adj; cat /proc/self/oom_score_adj"
    return subprocess.run(["sh", "-c", script], capture_output=True, text=True).stdout
