"""Cluster networks through the stock CLI: on managers, on workers, by stacks."""

import json
from pathlib import Path
from typing import Any

import pytest

from tests.e2e.cluster import Cluster, eventually

pytestmark = [pytest.mark.root, pytest.mark.e2e, pytest.mark.timeout(180)]

STACK = """
services:
  web:
    image: demo/web:1
    networks: [front, back]
    deploy: {replicas: 4}
  db:
    image: demo/web:1
    networks:
      back: {aliases: [store]}
networks:
  front: {driver: overlay, attachable: true, labels: {tier: front}}
  back: {}
"""


def names(cluster: Cluster, host: str, *filters: str) -> list[str]:
    words = [word for one in filters for word in ("--filter", one)]
    listed = cluster.docker(host, "network", "ls", "--format", "{{.Name}}", *words)
    return sorted(listed.split())


def inspect(cluster: Cluster, host: str, name: str, *words: str) -> dict[str, Any]:
    (shown,) = json.loads(cluster.docker(host, "network", "inspect", *words, name))
    found: dict[str, Any] = shown
    return found


def test_a_network_has_its_subnet_as_soon_as_it_is_made(cluster: Cluster) -> None:
    identity = cluster.docker("m2", "network", "create", "-d", "overlay", "one")
    shown = inspect(cluster, "m2", "one")
    assert shown["Id"] == identity
    assert shown["IPAM"]["Config"][0]["Subnet"].endswith("/24")
    assert "one" in names(cluster, "m3", "driver=overlay", "scope=swarm")
    assert inspect(cluster, "m3", identity[:10])["Name"] == "one"
    again = cluster.docker("m1", "network", "create", "-d", "overlay", "one", check=False)
    assert "network with name one already exists" in again
    cluster.docker("m1", "network", "rm", "one")
    assert "one" not in names(cluster, "m2")
    cluster.docker("m1", "network", "create", "-d", "overlay", "unused")
    assert "unused" in cluster.docker("m1", "network", "prune", "-f")


def test_a_stack_brings_its_networks_and_takes_them_along(
    cluster: Cluster, tmp_path: Path
) -> None:
    file = tmp_path / "stack.yml"
    file.write_text(STACK)
    cluster.docker("m1", "stack", "deploy", "--detach=true", "-c", str(file), "st")
    cluster.await_running("m1", "st_web", 4, 30)
    cluster.await_running("m1", "st_db", 1, 30)
    assert names(cluster, "m2", "label=tier=front") == ["st_front"]
    said = cluster.docker("m1", "network", "rm", "st_back", check=False)
    assert "in use by services st_db, st_web" in said
    verbose = inspect(cluster, "m1", "st_back", "-v")
    assert sorted(verbose["Services"]) == ["st_db", "st_web"]
    here = [host for host, _ in cluster.tasks("m1", "st_web")]
    for host in {*here}:
        members = inspect(cluster, host, "st_front")["Containers"].values()
        assert len(members) == here.count(host)
        assert all(member["IPv4Address"].endswith("/24") for member in members)
    cluster.docker("m1", "stack", "rm", "st")
    eventually(
        lambda: [n for h in ("m1", "w1", "w2") for n in names(cluster, h) if "st_" in n],
        lambda left: not left,
        30,
    )


def test_networks_are_shown_in_full(cluster: Cluster) -> None:
    cluster.docker("m1", "network", "create", "-d", "overlay", "shown")
    cluster.docker("m1", "service", "create", "-d", "--name", "shop", "--network", "shown",
                   "-p", "8123:80", "--constraint", "node.hostname==w1",
                   "demo/web:1")  # fmt: skip
    cluster.await_running("m1", "shop", 1, 20)
    ingress = inspect(cluster, "m1", "ingress", "--verbose")
    assert len(ingress["Peers"]) == 5
    assert ingress["Services"]["shop"]["Ports"] == ["Target: 80, Publish: 8123"]
    assert len(ingress["Services"]["shop"]["Tasks"]) == 1
    (service,) = json.loads(cluster.docker("m1", "service", "inspect", "shop"))
    own = inspect(cluster, "m1", "shown", "--verbose")
    ips = {one["NetworkID"]: one["Addr"] for one in service["Endpoint"]["VirtualIPs"]}
    assert ips.keys() == {ingress["Id"], own["Id"]}
    assert own["Services"]["shop"]["VIP"] == ips[own["Id"]].partition("/")[0]
    assert [each["IP"] for each in own["Peers"]] == [cluster.hosts["w1"]["address"]]
    (task,) = json.loads(
        cluster.docker("m1", "inspect", cluster.docker("m1", "service", "ps", "-q", "shop"))
    )
    places = {one["Network"]["ID"]: one["Addresses"] for one in task["NetworksAttachments"]}
    assert places.keys() == {ingress["Id"], own["Id"]}
    (container,) = cluster.containers_on("w1", "shop")
    here = inspect(cluster, "w1", "ingress")
    assert (here["Id"], here["Ingress"]) == (ingress["Id"], True)
    assert here["Containers"][container]["IPv4Address"] == places[ingress["Id"]][0]
    bridge = inspect(cluster, "w1", "docker_gwbridge")
    assert container in bridge["Containers"]
    assert bridge["IPAM"]["Config"][0]["Gateway"].endswith(".1")
    (found,) = json.loads(cluster.docker("w1", "inspect", container))
    assert found["NetworkSettings"]["Networks"]["ingress"]["NetworkID"] == ingress["Id"]
    cluster.docker("m1", "service", "rm", "shop")
    eventually(
        lambda: cluster.docker("m1", "network", "rm", "shown", check=False),
        lambda said: "Error" not in said,
        20,
    )


def test_a_worker_refuses_in_swarms_words(cluster: Cluster) -> None:
    said = cluster.docker("w1", "network", "create", "-d", "overlay", "x", check=False)
    assert "Worker nodes can't be used to view or modify cluster state" in said
    its_own = ["bridge", "docker_gwbridge", "host", "ingress", "none"]
    # a network of others may have been told of until a moment ago
    eventually(lambda: names(cluster, "w1"), lambda found: found == its_own, 5)


def test_outside_of_a_cluster_the_way_in_is_said(host: Cluster) -> None:
    said = host.docker("m1", "network", "create", "-d", "overlay", "x", check=False)
    assert 'Use "docker swarm init" or "docker swarm join"' in said
    pools = ("--default-addr-pool", "10.130.0.0/16")
    said = host.docker("m1", "swarm", "init", *pools, check=False)
    assert "10.130.0.0/16 lies within 10.128.0.0/9" in said
    size = ("--default-addr-pool-mask-length", "30")
    assert "out of range: 30" in host.docker("m1", "swarm", "init", *size, check=False)
    assert host.docker("m1", "info", "-f", "{{.Swarm.LocalNodeState}}") == "inactive"
