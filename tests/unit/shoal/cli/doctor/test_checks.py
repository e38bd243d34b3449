"""What the doctor says of what it has seen."""

import errno
import json
import os
import socket
import stat
import subprocess
import sys
from collections.abc import Iterable
from datetime import UTC, datetime, timedelta

import pytest

from shoal.cli.doctor import clock, command, groups, kernel, ports, programs, storage
from shoal.cli.doctor.checks import Check
from shoal.cli.doctor.finding import Finding, Ground, Level, ok, problem
from shoal.common.config import HostConfig
from shoal.common.etcd_holes import version_in
from shoal.common.ports import MANAGER_PORTS, VXLAN_PORT, Holder, Port, check_free, holder_of
from shoal.common.programs import Answer
from shoal.model.errors import Unavailable

NOW = datetime(2026, 1, 1, tzinfo=UTC)


@pytest.mark.parametrize(
    ("release", "level"),
    [("6.1.0-18-amd64", "ok"), ("5.10.0", "ok"), ("4.19.0", "problem"), ("odd", "warning")],
)
def test_kernel_versions(release: str, level: str) -> None:
    assert kernel.judge_version(release).level == level


def test_a_trial_that_fails_names_feature_reason_and_module() -> None:
    found = kernel.judge_trial("a VXLAN device", "vxlan", 2, "Error: Unknown device type.\nx")
    assert found.level is Level.PROBLEM
    assert found.says == "the kernel does not make a VXLAN device: Error: Unknown device type."
    assert "modprobe vxlan" in found.helps


@pytest.mark.parametrize(
    ("said", "number"),
    [
        ("runc version 1.1.5+ds1", (1, 1, 5)),
        ("nftables v1.0.6 (Lester Gooch #5)", (1, 0, 6)),
        ("etcd Version: 3.4.23\nGit SHA: abc", (3, 4, 23)),
        ("nothing", ()),
    ],
)
def test_versions_are_found_in_words(said: str, number: tuple[int, ...]) -> None:
    assert version_in(said) == number


def test_programs_that_are_missing_old_or_silent() -> None:
    runc = programs.PROGRAMS[0]
    assert "apt-get install runc" in programs.judge(runc, "", "").helps
    assert "needs 1.1.0 or newer" in programs.judge(runc, "/x/runc", "runc version 1.0.3").says
    assert programs.judge(runc, "/x/runc", "?").level is Level.WARNING
    assert programs.judge(runc, "/x/runc", "runc version 1.1.5").level is Level.OK


@pytest.mark.parametrize(
    ("number", "levels"),
    [
        ((3, 4, 23), ["warning", "warning"]),
        ((3, 5, 1), ["problem", "warning", "warning"]),
        ((3, 5, 12), ["warning"]),
        ((3, 5, 13), []),
        ((3, 6, 0), []),
    ],
)
def test_known_holes_of_etcd(number: tuple[int, ...], levels: list[str]) -> None:
    assert [each.level for each in programs.judge_etcd(number)] == levels


V1 = "".join(
    f"cgroup /sys/fs/cgroup/{name} cgroup rw,{name} 0 0\n"
    for name in ("cpu", "memory", "pids", "cpuset", "blkio", "freezer")
)
SYSTEMD = "cgroup /sys/fs/cgroup/systemd cgroup rw,name=systemd 0 0\n"
V2 = "cgroup2 /sys/fs/cgroup/unified cgroup2 rw 0 0\n"


def said(findings: Iterable[Finding]) -> str:
    return "\n".join(each.says for each in findings)


def test_layouts_of_control_groups() -> None:
    all_of_them = "cpu memory pids cpuset io"
    assert said(groups.judge(V1, "")) == "control groups are v1, with all controllers"
    assert "hybrid" in said(groups.judge(V1 + SYSTEMD + V2, ""))
    assert said(groups.judge(V2, all_of_them)) == "control groups are v2, with all controllers"
    assert "no control groups" in said(groups.judge("", ""))


def test_missing_controllers() -> None:
    found = list(groups.judge(V2, "cpu pids io cpuset"))
    assert [each.level for each in found] == ["problem"]
    assert found[0].says == "the memory controller is missing (v2): --memory cannot be kept"
    assert "cgroup_enable=memory" in found[0].helps
    found = list(groups.judge(V1.replace("cpuset", "other"), ""))
    assert [each.level for each in found] == ["warning"]


def test_ports_and_who_holds_them() -> None:
    def judged(taken: Holder | None, port: Port = MANAGER_PORTS[0]) -> Finding:
        return ports.judge(port, 2377, taken=taken, ours={7: "manager"})

    assert judged(None).level is Level.OK
    assert judged(Holder(7, "shoal")).says.endswith("held by this host's manager")
    other = judged(Holder(8, "dockerd"))
    assert other.level is Level.PROBLEM
    assert "taken by dockerd (pid 8)" in other.says
    assert "`port` in host.toml" in other.helps
    assert judged(Holder(), VXLAN_PORT).level is Level.WARNING


def test_a_port_that_is_taken_is_traced_to_its_process() -> None:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        port = listener.getsockname()[1]

        assert holder_of(port).pid == os.getpid()
        check_free(HostConfig(port=port), MANAGER_PORTS[:1])  # our own
    assert holder_of(port) == Holder()


def test_a_port_of_somebody_else_is_named() -> None:
    script = "import socket;s=socket.create_server(('',0));print(s.getsockname()[1],flush=True)"
    with subprocess.Popen(
        [sys.executable, "-c", f"{script};input()"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as other:
        assert other.stdout is not None
        port = int(other.stdout.readline())
        with pytest.raises(Unavailable, match=rf"port {port}/tcp.*\(pid {other.pid}\)"):
            check_free(HostConfig(port=port), MANAGER_PORTS[:1])
        other.communicate("")


def test_clocks() -> None:
    assert clock.judge_skew("a", timedelta(seconds=1.9)).level is Level.OK
    late = clock.judge_skew("a", timedelta(seconds=30))
    assert late.level is Level.WARNING
    assert "30 s behind that of manager a" in late.says
    assert clock.judge_skew("a", timedelta(seconds=-90)).level is Level.PROBLEM
    day = timedelta(days=1)
    assert clock.judge_dates(NOW - day, NOW + day, NOW).level is Level.OK
    assert "expired" in clock.judge_dates(NOW - 2 * day, NOW - day, NOW).says
    assert "valid from" in clock.judge_dates(NOW + day, NOW + 2 * day, NOW).says


def test_disks_and_owners() -> None:
    gigabyte = 10**9
    levels = [
        storage.judge_space("/s", free * gigabyte // 10, 100 * gigabyte).level
        for free in (5, 20, 90)
    ]
    assert levels == ["problem", "warning", "ok"]
    assert storage.judge_sync("/s", 0.002).level is Level.OK
    assert storage.judge_sync("/s", 0.08).level is Level.WARNING
    assert storage.judge_owner("/s", 1000, 0o711).level is Level.PROBLEM
    assert storage.judge_owner("/s", 0, 0o777 | stat.S_IFDIR).level is Level.PROBLEM
    assert storage.judge_owner("/s", 0, 0o711 | stat.S_IFDIR).level is Level.OK
    assert storage.judge_secret("/s/key", 0o640).helps == "`chmod go= /s/key`"


def test_a_check_that_breaks_is_a_finding() -> None:
    def breaks(_: Ground) -> Iterable[Finding]:
        raise OSError(errno.EIO, "I/O error")

    found = command.look(Check("disk", breaks), Ground(config=HostConfig()))
    assert [each.level for each in found] == ["problem"]


def test_output_in_both_forms() -> None:
    found = [("kernel", ok("fine")), ("disk", problem("full", "empty it"))]
    told = json.loads(command.as_object(found))
    assert told["counts"] == {"ok": 1, "warning": 0, "problem": 1}
    assert told["findings"][1]["helps"] == "empty it"
    text = command.as_text(found, quiet=True)
    assert "fine" not in text
    assert "[FAIL] disk: full\n       empty it\n1 problems" in text


def test_a_missing_program_is_an_answer() -> None:
    answer = Ground(config=HostConfig()).run(("/nonexistent/program",))
    assert isinstance(answer, Answer)
    assert answer.status == 127
