"""A host's own networks and a person's containers on any network, through the stock CLI."""

import json
import os
import signal
from typing import Any

import pytest

from tests.e2e.cluster import Cluster, eventually

pytestmark = [pytest.mark.root, pytest.mark.e2e, pytest.mark.timeout(180)]


def inspect(host: Cluster, kind: str, name: str, on: str = "m1") -> dict[str, Any]:
    (shown,) = json.loads(host.docker(on, kind, "inspect", name))
    found: dict[str, Any] = shown
    return found


def run(host: Cluster, name: str, *flags: str, on: str = "m1") -> str:
    return host.docker(on, "run", "-d", "--name", name, *flags, "busybox", "sleep", "600")


def pings(host: Cluster, name: str, target: str, on: str = "m1") -> bool:
    words = ("exec", name, "ping", "-c1", "-W1", target)
    return host.run(on, *words).returncode == 0


def test_containers_of_a_users_network_know_each_other_by_name(host: Cluster) -> None:
    host.docker("m1", "network", "create", "--subnet", "10.66.0.0/24", "--label", "a=b", "red")
    host.docker("m1", "network", "create", "blue")
    run(host, "one", "--network", "red", "--network-alias", "uno", "--ip", "10.66.0.77")
    run(host, "two", "--network", "red")
    run(host, "far", "--network", "blue")
    for name in ("one", "uno", "10.66.0.77"):
        assert pings(host, "two", name), name
    assert not pings(host, "far", "one")
    assert not pings(host, "far", "10.66.0.77")
    host.docker("m1", "network", "connect", "--alias", "dos", "blue", "two")
    for name in ("two", "dos"):
        assert pings(host, "far", name), name
    assert inspect(host, "container", "two")["NetworkSettings"]["Networks"].keys() == {
        "red",
        "blue",
    }
    listed = host.docker("m1", "ps", "--filter", "network=blue", "--format", "{{.Names}}")
    assert sorted(listed.split()) == ["far", "two"]
    members = inspect(host, "network", "red")["Containers"].values()
    assert sorted(each["Name"] for each in members) == ["one", "two"]
    host.docker("m1", "network", "disconnect", "blue", "two")
    assert not pings(host, "far", "dos")
    said = host.docker("m1", "network", "rm", "red", check=False)
    assert "has active endpoints" in said
    assert 'name:"one"' in said
    agent = host.pids("m1")["agent"]
    assert agent is not None
    os.kill(agent, signal.SIGKILL)
    eventually(lambda: host.pids("m1")["agent"], lambda pid: pid not in (None, agent), 10)
    eventually(lambda: pings(host, "two", "one"), bool, 10)
    host.docker("m1", "rm", "-f", "one", "two", "far")
    assert host.docker("m1", "network", "prune", "-f").split()[-2:] == ["red", "blue"]


def test_a_running_container_of_bridge_learns_names_when_it_joins_a_network(
    host: Cluster,
) -> None:
    def resolver(name: str) -> str:
        return host.docker("m1", "exec", name, "cat", "/etc/resolv.conf")

    host.docker("m1", "network", "create", "green")
    run(host, "old")
    run(host, "own")
    run(host, "peer", "--network", "green")
    run(host, "beside", "--network", "container:old")
    before = resolver("old")
    host.docker("m1", "exec", "own", "sh", "-c", "echo nameserver 192.0.2.7 >/etc/resolv.conf")
    for name in ("old", "own"):
        host.docker("m1", "network", "connect", "green", name)
    assert "nameserver 127.0.0.11" in resolver("old")
    for name in ("old", "beside"):
        assert pings(host, name, "peer"), name
    assert pings(host, "peer", "old")
    assert resolver("own") == "nameserver 192.0.2.7"
    for file in ("/etc/resolv.conf", "/etc/hosts", "/etc/hostname"):
        shown = [host.docker("m1", "exec", each, "cat", file) for each in ("old", "beside")]
        assert shown[0] == shown[1], file
    names = [host.docker("m1", "exec", each, "hostname") for each in ("old", "beside")]
    assert names[0] == names[1]
    host.docker("m1", "network", "disconnect", "green", "old")
    assert resolver("old") == before
    said = host.docker("m1", "run", "--rm", "--network", "container:old", "-h", "x", "busybox",
                       check=False)  # fmt: skip
    assert "conflicting options: hostname and the network mode" in said
    host.docker("m1", "rm", "-f", "old", "own", "peer", "beside")
    host.docker("m1", "network", "rm", "green")


def test_stopped_containers_change_networks_and_start_on_them(host: Cluster) -> None:
    host.docker("m1", "network", "create", "inner", "--internal", "--ipv6")
    host.docker("m1", "create", "--name", "late", "busybox", "sleep", "600")
    host.docker("m1", "network", "connect", "inner", "late")
    host.docker("m1", "network", "disconnect", "bridge", "late")
    host.docker("m1", "start", "late")
    (place,) = inspect(host, "container", "late")["NetworkSettings"]["Networks"].values()
    assert place["GlobalIPv6Address"].startswith("fd")
    routes = host.docker("m1", "exec", "late", "ip", "route")
    assert "default" not in routes
    host.docker("m1", "network", "connect", "bridge", "late")
    assert "default" in host.docker("m1", "exec", "late", "ip", "route")
    host.docker("m1", "rm", "-f", "late")
    host.docker("m1", "network", "rm", "inner")


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (("network", "create", "bridge"), "predefined bridge network"),
        (("network", "rm", "host"), "pre-defined network and cannot be removed"),
        (("network", "create", "--subnet", "10.1.1.1/24", "x"), "it should be 10.1.1.0/24"),
        (("network", "create", "-o", "x=y", "x"), "Options.x"),
        (("network", "create", "-d", "macvlan", "--subnet", "10.9.9.0/24", "x"), "parent"),
        (("network", "create", "-d", "weave", "x"), 'plugin "weave" not found'),
        (("network", "connect", "nosuch", "busy"), "network nosuch not found"),
        (("network", "connect", "host", "busy"), "host network"),
        (("network", "connect", "bridge", "busy"), "already exists in network bridge"),
        (
            ("run", "--rm", "--network", "nosuch", "busybox"),
            "failed to set up container networking: network nosuch not found",
        ),
        (("create", "--network", "bridge", "--ip", "10.1.1.1", "busybox"), "user defined"),
    ],
)
def test_what_cannot_be_is_said(host: Cluster, words: tuple[str, ...], sentence: str) -> None:
    if "busy" in words:
        run(host, "busy")
    try:
        assert sentence in host.docker("m1", *words, check=False)
    finally:
        if "busy" in words:
            host.docker("m1", "rm", "-f", "busy")
    listed = host.docker("m1", "network", "ls", "--format", "{{.Name}}")
    assert sorted(listed.split()) == ["bridge", "host", "none"]


def test_a_name_is_taken_once_and_subnets_do_not_overlap(host: Cluster) -> None:
    host.docker("m1", "network", "create", "--subnet", "10.66.0.0/24", "red")
    said = host.docker("m1", "network", "create", "red", check=False)
    assert "network with name red already exists" in said
    flags = ("--subnet", "10.66.0.0/16")
    said = host.docker("m1", "network", "create", *flags, "x", check=False)
    assert "Pool overlaps" in said
    host.docker("m1", "network", "rm", "red")


def test_a_place_has_what_was_asked_for_it(host: Cluster) -> None:
    host.docker("m1", "network", "create", "--ipv6", "--subnet", "10.67.0.0/24", "--subnet",
                "fd67::/64", "pink")  # fmt: skip
    run(host, "one")
    run(host, "two", "--network", "pink")
    host.docker("m1", "network", "connect", "--ip", "10.67.0.9", "--ip6", "fd67::9", "--alias",
                "nine", "--link-local-ip", "169.254.7.7", "--link-local-ip", "fe80::77", "pink",
                "one")  # fmt: skip
    for target in ("10.67.0.9", "nine", "fd67::9"):
        assert pings(host, "two", target), target
    shown = host.docker("m1", "exec", "one", "ip", "address", "show", "eth1")
    for address in ("10.67.0.9/24", "169.254.7.7/16", "fd67::9/64", "fe80::77/64"):
        assert address in shown
    place = inspect(host, "container", "one")["NetworkSettings"]["Networks"]["pink"]
    assert place["IPAMConfig"] == {
        "IPv4Address": "10.67.0.9",
        "IPv6Address": "fd67::9",
        "LinkLocalIPs": ["169.254.7.7", "fe80::77"],
    }
    said = host.docker("m1", "network", "connect", "--link-local-ip", "x", "pink", "two",
                       check=False)  # fmt: skip
    assert "link-local" in said or "already exists" in said
    host.docker("m1", "network", "disconnect", "-f", "pink", "one")
    host.docker("m1", "network", "disconnect", "-f", "pink", "gone")  # no more there: no error
    assert not pings(host, "two", "10.67.0.9")
    host.docker("m1", "rm", "-f", "one", "two")
    host.docker("m1", "network", "rm", "pink")


def test_a_network_may_be_made_after_the_container(host: Cluster) -> None:
    host.docker("m1", "create", "--name", "early", "--network", "later", "busybox", "sleep",
                "600")  # fmt: skip
    shown = inspect(host, "container", "early")["NetworkSettings"]["Networks"]
    assert [*shown] == ["later"]
    assert "network later not found" in host.docker("m1", "start", "early", check=False)
    host.docker("m1", "network", "create", "later")
    host.docker("m1", "start", "early")
    shown = inspect(host, "container", "early")["NetworkSettings"]["Networks"]["later"]
    assert shown["NetworkID"] == inspect(host, "network", "later")["Id"]
    assert shown["IPAddress"]
    host.docker("m1", "rm", "-f", "early")
    host.docker("m1", "network", "rm", "later")


def test_a_restart_asks_for_its_place_until_a_manager_answers(cluster: Cluster) -> None:
    cluster.docker("m1", "network", "create", "-d", "overlay", "--attachable", "wide")
    run(cluster, "lasting", "--network", "wide", "--restart", "always", on="w1")

    def state() -> str:
        words = ("inspect", "-f", "{{.State.Status}} {{.State.Error}}", "lasting")
        return cluster.docker("w1", *words, check=False).strip()

    pid = int(cluster.docker("w1", "inspect", "-f", "{{.State.Pid}}", "lasting"))
    cluster.sandbox("link", "w1", "down")
    try:
        os.kill(pid, signal.SIGKILL)
        eventually(state, lambda said: said.startswith("restarting ") and len(said) > 20, 60)
    finally:
        cluster.sandbox("link", "w1", "up")
    eventually(state, lambda said: said == "running", 30)
    run(cluster, "peer", "--network", "wide", on="m1")
    eventually(lambda: pings(cluster, "peer", "lasting", on="m1"), bool, 10)
    cluster.docker("m1", "rm", "-f", "peer")
    cluster.docker("w1", "rm", "-f", "lasting")
    cluster.docker("m1", "network", "rm", "wide")


def test_persons_containers_join_attachable_networks(cluster: Cluster) -> None:
    assert "docker_gwbridge" in cluster.docker("w1", "network", "ls", "--format", "{{.Name}}")
    cluster.docker("m1", "network", "create", "-d", "overlay", "--attachable", "wide")
    cluster.docker("m1", "network", "create", "-d", "overlay", "shut")
    try:
        said = cluster.docker("m1", "create", "--network", "shut", "busybox", check=False)
        assert "not manually attachable" in said
        run(cluster, "here", "--network", "wide", on="m1")
        run(cluster, "there", "--network", "wide", on="w1")
        eventually(lambda: pings(cluster, "here", "there", on="m1"), bool, 10)
        eventually(lambda: pings(cluster, "there", "here", on="w1"), bool, 10)
        assert "default" in cluster.docker("w1", "exec", "there", "ip", "route")
        run(cluster, "joins", on="w1")
        cluster.docker("w1", "network", "connect", "wide", "joins")
        eventually(lambda: pings(cluster, "here", "joins", on="m1"), bool, 10)
        cluster.docker("w1", "network", "disconnect", "wide", "joins")
        said = cluster.docker("m1", "network", "rm", "wide", check=False)
        assert "in use" in said or "active endpoints" in said
    finally:
        for name, on in (("here", "m1"), ("there", "w1"), ("joins", "w1")):
            cluster.docker(on, "rm", "-f", name, check=False)
    cluster.docker("m1", "network", "rm", "wide", "shut")
