"""Jobs through the stock CLI: its progress display ends when they do."""

import pytest

from tests.e2e.cluster import Cluster, eventually

pytestmark = [pytest.mark.root, pytest.mark.e2e, pytest.mark.timeout(180)]

FORM = "{{.Mode}} {{.Replicas}}"


def listed(cluster: Cluster, name: str) -> str:
    return cluster.docker("m2", "service", "ls", "-f", f"name={name}", "--format", FORM)


def test_replicated_job_completes_and_runs_again(cluster: Cluster) -> None:
    said = cluster.docker("m1", "service", "create", "--name", "sums", "--replicas", "3",
                          "--mode", "replicated-job", "--max-concurrent", "2", "busybox",
                          "echo", "done")  # fmt: skip
    assert "job complete" in said
    assert listed(cluster, "sums") == "replicated job 0/0 (3/3 completed)"
    logs = cluster.docker("m1", "service", "logs", "--raw", "sums")
    assert logs.splitlines() == ["done"] * 3
    cluster.docker("m1", "service", "update", "--force", "sums")
    form = "{{.JobStatus.JobIteration.Index}}"
    assert cluster.docker("m1", "service", "inspect", "-f", form, "sums") == "1"
    assert listed(cluster, "sums") == "replicated job 0/0 (3/3 completed)"
    cluster.docker("m1", "service", "rm", "sums")


def test_global_job_runs_once_on_each_host(cluster: Cluster) -> None:
    said = cluster.docker("m1", "service", "create", "--name", "once", "--mode", "global-job",
                          "busybox", "true")  # fmt: skip
    assert "job complete" in said
    assert listed(cluster, "once") == "global job 0/0 (5/5 completed)"
    cluster.docker("m1", "service", "rm", "once")


def test_failing_job_is_tried_as_often_as_it_may(cluster: Cluster) -> None:
    cluster.docker("m1", "service", "create", "-d", "--name", "fails", "--mode",
                   "replicated-job", "--restart-max-attempts", "2", "--restart-delay", "1ms",
                   "busybox", "false")  # fmt: skip
    form = "{{.CurrentState}} {{.Error}}"
    eventually(
        lambda: cluster.docker("m1", "service", "ps", "fails", "--format", form).splitlines(),
        lambda rows: len(rows) == 3 and all("non-zero exit (1)" in row for row in rows),
        20,
    )
    assert listed(cluster, "fails") == "replicated job 0/1 (0/1 completed)"
    cluster.docker("m1", "service", "rm", "fails")
