"""`shoal doctor` on a live host: who drops what, and a tunnel that does not answer."""

import json
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from tests.e2e.cluster import Cluster, eventually

pytestmark = [pytest.mark.root, pytest.mark.e2e, pytest.mark.timeout(180)]

HOST = "w1"
Doctor = Callable[[], dict[str, str]]


def in_host(cluster: Cluster, *command: str, stdin: str = "") -> str:
    netns = f"/run/netns/{cluster.hosts[HOST]['netns']}"
    return subprocess.run(
        ["nsenter", f"--net={netns}", *command],
        input=stdin,
        stdout=subprocess.PIPE,
        text=True,
        check=True,
    ).stdout


def prefix(cluster: Cluster) -> str:
    """What begins the names of the host's links; so does that of its mesh."""
    links: list[dict[str, str]] = json.loads(in_host(cluster, "ip", "-j", "link"))
    names = (each["ifname"] for each in links)
    return next(name for name in names if name.endswith("-x")).removesuffix("-x")


@contextmanager
def rules(cluster: Cluster, chain: str) -> Iterator[None]:
    """A table of somebody else on the host."""
    in_host(
        cluster, "nft", "-f", "-", stdin=f"table inet guard {{\n chain c {{\n{chain}\n}}\n}}\n"
    )
    try:
        yield
    finally:
        in_host(cluster, "nft", "delete", "table", "inet", "guard")


@pytest.fixture
def doctor(cluster: Cluster, tmp_path: Path) -> Doctor:
    """What it says of the network there: each sentence, and how bad it is."""
    config = tmp_path / "host.toml"
    run = cluster.run_directory(HOST)
    config.write_text(f'instance = "{prefix(cluster)}"\n')

    def ask() -> dict[str, str]:
        told = json.loads(
            subprocess.run(
                [
                    *("nsenter", f"--net=/run/netns/{cluster.hosts[HOST]['netns']}"),
                    *(sys.executable, "-m", "shoal.cli", "doctor", "--json"),
                    *("--config", str(config), "--run", str(run)),
                    *("--state", str(run.with_name("state"))),
                ],
                capture_output=True,
                text=True,
                check=False,
            ).stdout
        )
        findings: list[dict[str, Any]] = told["findings"]
        return {
            each["says"]: each["level"]
            for each in findings
            if each["subject"] in ("firewalls", "network")
        }

    return ask


def problems(said: dict[str, str]) -> list[str]:
    return [sentence for sentence, level in said.items() if level == "problem"]


def test_a_host_that_is_well(cluster: Cluster, doctor: Doctor) -> None:
    said = doctor()
    assert problems(said) == []
    for name, host in cluster.hosts.items():
        if name != HOST:
            assert said[f"{host['address']} answers through VXLAN (UDP port 4789)"] == "ok"


def test_a_table_that_drops_is_named_until_it_lets_pass(
    cluster: Cluster, doctor: Doctor
) -> None:
    with rules(cluster, "type filter hook forward priority 0; policy drop;"):
        (found,) = problems(doctor())
        assert "the nftables chain `inet guard c` drops forwarded packets" in found
        ours = f"{prefix(cluster)}-*"
        for way in ("iifname", "oifname"):
            in_host(cluster, "nft", "insert", "rule", "inet", "guard", "c", way, ours, "accept")
        assert problems(doctor()) == []
    assert problems(doctor()) == []


def test_dockers_chain_for_users_is_enough(cluster: Cluster, doctor: Doctor) -> None:
    in_host(cluster, "sh", "-ec", "iptables -N DOCKER-USER; iptables -A FORWARD -j DOCKER-USER;"
            " iptables -P FORWARD DROP")  # fmt: skip
    try:
        eventually(lambda: problems(doctor()), lambda found: found == [], 10)
    finally:
        in_host(cluster, "sh", "-ec", "iptables -P FORWARD ACCEPT; iptables -F FORWARD;"
                " iptables -F DOCKER-USER; iptables -X DOCKER-USER")  # fmt: skip


def test_a_tunnel_that_does_not_answer_is_told(cluster: Cluster, doctor: Doctor) -> None:
    with rules(cluster, "type filter hook input priority -20; udp dport 4789 drop;"):
        found = problems(doctor())
        for name, host in cluster.hosts.items():
            wanted = f"{host['address']} answers, but not through VXLAN (UDP port 4789)"
            assert any(each.startswith(wanted) for each in found) == (name != HOST)
    assert problems(doctor()) == []
