"""Cluster networks through the stock CLI: who reaches whom, by which names, at all times."""

import json
import subprocess
import sys
import time
from collections.abc import Iterator

import pytest

from tests.e2e.cluster import Cluster, container_of, eventually, pid_of, vip_of

pytestmark = [pytest.mark.root, pytest.mark.e2e, pytest.mark.timeout(300)]

HOLD = """
import socket, sys
held = socket.create_connection((sys.argv[1], 80), 5)
held.sendall(b"GET / HTTP/1.0\\r\\n")
print("open", flush=True)
sys.stdin.read()
held.sendall(b"\\r\\n")
held.settimeout(5)
while data := held.recv(9999):
    sys.stdout.write(data.decode())
"""
"""Half a request, and the rest when standard input ends."""

HOSTS = ("m1", "m2", "m3", "w1", "w2")


def inside(cluster: Cluster, host: str, service: str, *words: str) -> str:
    """What a command in a service's container says; all output."""
    container = container_of(cluster, host, service)
    return cluster.docker(host, "exec", container, *words, check=False)


def ask(cluster: Cluster, host: str, service: str, target: str, seconds: int = 3) -> str:
    """What a web server answers to a service's container."""
    words = ("timeout", str(seconds), "wget", "-q", "-O", "-", f"http://{target}/")
    return inside(cluster, host, service, *words)


def everywhere(cluster: Cluster, service: str) -> None:
    eventually(
        lambda: sorted(cluster.tasks("m1", service)),
        lambda tasks: tasks == [(host, "Running") for host in HOSTS],
        30,
    )


@pytest.fixture(scope="module")
def net(cluster: Cluster) -> Iterator[Cluster]:
    """A dual-stack network with a service on every host, and one beside it with another."""
    for name, flags in (("back", ["--ipv6"]), ("other", [])):
        cluster.docker("m1", "network", "create", "-d", "overlay", "--attachable", *flags, name)
    for name, network in (("peer", "back"), ("stranger", "other")):
        cluster.docker("m1", "service", "create", "-d", "--name", name, "--mode", "global",
                       "--network", f"name={network},alias={name}-alias",
                       "demo/web:1")  # fmt: skip
    everywhere(cluster, "peer")
    everywhere(cluster, "stranger")
    yield cluster
    for name in ("peer", "stranger"):
        cluster.docker("m1", "service", "rm", name)
    for name in ("back", "other"):
        eventually(
            lambda name=name: cluster.docker("m1", "network", "rm", name, check=False),  # type: ignore[misc]
            lambda said: "Error" not in said or "not found" in said,
            20,
        )


@pytest.mark.parametrize("name", ["peer", "peer-alias", "tasks.peer", "peer.back"])
def test_every_host_reaches_the_service_by_its_names(net: Cluster, name: str) -> None:
    for host in HOSTS:
        said = ask(net, host, "peer", name)
        assert "demo/web:1 on" in said, f"{name} from {host}: {said}"


def test_the_virtual_ip_leads_to_every_task(net: Cluster) -> None:
    vip = vip_of(net, "peer", "back")
    container = container_of(net, "w1", "peer")
    script = f"for i in $(seq 60); do wget -q -O - http://{vip}/; done"
    said = net.docker("w1", "exec", container, "sh", "-c", script)
    assert len(said.splitlines()) == 60
    assert len({line.split()[2] for line in said.splitlines()}) == 5


def test_tasks_reach_each_other_on_both_families(net: Cluster) -> None:
    form = (
        '{{with index .NetworkSettings.Networks "back"}}'
        "{{.IPAddress}} {{.GlobalIPv6Address}}{{end}}"
    )
    for host in HOSTS:
        container = container_of(net, host, "peer")
        four, six = net.docker(host, "inspect", "-f", form, container).split()
        for client in HOSTS:
            for target in (four, f"[{six}]"):
                said = ask(net, client, "peer", target)
                assert container[:12] in said, f"{client} to {target} on {host}: {said}"


def test_another_network_reaches_nobody(net: Cluster) -> None:
    form = '{{with index .NetworkSettings.Networks "back"}}{{.IPAddress}}{{end}}'
    vip = vip_of(net, "peer", "back")
    for host in ("m1", "w2"):
        near = net.docker(host, "inspect", "-f", form, container_of(net, host, "peer"))
        for target in ("peer", near, vip):
            said = ask(net, host, "stranger", target, 1)
            assert "demo/web" not in said, f"{target} from a stranger on {host}"


def known_words(cluster: Cluster, host: str, *words: str) -> set[str]:
    """Which of the words a host has in its files, its devices or its rules."""
    netns = f"/run/netns/{cluster.hosts[host]['netns']}"
    run = cluster.run_directory(host)
    texts = [
        path.read_bytes()
        for directory in (run, run.with_name("state"))
        for path in directory.rglob("*")
        if path.is_file() and "images" not in path.relative_to(directory).parts
    ]
    for command in (
        ("ip", "-d", "link"),
        ("ip", "-4", "neigh"),
        ("bridge", "fdb"),
        ("nft", "list", "ruleset"),
    ):
        shown = subprocess.run(
            ["nsenter", f"--net={netns}", *command], capture_output=True, check=True
        )
        texts.append(shown.stdout)
    return {word for word in words if any(word.encode() in text for text in texts)}


def test_a_worker_without_a_task_learns_nothing(net: Cluster) -> None:
    """Neither the network nor who is on it: in no answer, file, device or rule."""
    identity = net.docker("m1", "network", "create", "-d", "overlay", "apart")
    net.docker("m1", "service", "create", "-d", "--name", "solitary", "--network", "apart",
               "--constraint", "node.hostname==w1", "demo/web:1")  # fmt: skip
    net.await_running("m1", "solitary", 1, 20)
    assert "apart" in net.docker("w1", "network", "ls")
    assert "apart" not in net.docker("w2", "network", "ls")
    place = '{{with index .NetworkSettings.Networks "apart"}}'
    form = place + "{{.IPAddress}} {{.MacAddress}}{{end}}"
    shown = net.docker("w1", "inspect", "-f", form, container_of(net, "w1", "solitary"))
    address, mac = shown.split()
    form = '{{index .Options "com.docker.network.driver.overlay.vxlanid_list"}}'
    vni = f"vxlan id {net.docker('m1', 'network', 'inspect', '-f', form, 'apart')} "
    words = (identity, "solitary", vip_of(net, "solitary", "apart"), address, mac, vni)
    assert known_words(net, "w1", *words) >= {identity, "solitary", address, vni}
    assert known_words(net, "w2", *words) == set()
    said = net.docker("m1", "network", "rm", "apart", check=False)
    assert "solitary" in said
    net.docker("m1", "service", "rm", "solitary")
    net.docker("m1", "network", "rm", "apart")


def test_a_task_has_no_name_before_it_is_healthy(net: Cluster) -> None:
    net.docker("m1", "service", "create", "-d", "--name", "late", "--network", "back",
               "--constraint", "node.hostname==w1", "--health-cmd", "test -e /tmp/ready",
               "--health-interval", "200ms", "--health-retries", "1000",
               "demo/web:1")  # fmt: skip
    label = ("--filter", "label=com.docker.swarm.service.name=late")
    status = ("ps", *label, "--format", "{{.Status}}")
    eventually(lambda: net.docker("w1", *status), lambda text: "starting" in text, 20)
    assert net.tasks("m1", "late") == [("w1", "Starting")]
    assert "demo/web" not in ask(net, "w2", "peer", "tasks.late")
    inside(net, "w1", "late", "touch", "/tmp/ready")
    net.await_running("m1", "late", 1, 10)
    eventually(lambda: ask(net, "w2", "peer", "tasks.late"), lambda said: "demo/web" in said, 5)
    net.docker("m1", "service", "rm", "late")


@pytest.mark.parametrize("kind", ["bridge", "vxlan"])
def test_a_device_deleted_by_hand_comes_back(net: Cluster, kind: str) -> None:
    netns = net.hosts["w2"]["netns"]

    def devices() -> set[str]:
        told = subprocess.run(
            ["ip", "-n", netns, "-j", "link", "show", "type", kind],
            check=True, capture_output=True, text=True,
        )  # fmt: skip
        return {link["ifname"] for link in json.loads(told.stdout or "[]")}

    before = devices()
    assert before
    for name in before:
        subprocess.run(["ip", "-n", netns, "link", "delete", name], check=True)
    eventually(devices, lambda seen: seen == before, 4)
    for client in ("w1", "w2"):
        eventually(
            lambda client=client: inside(  # type: ignore[misc]
                net, client, "peer", "sh", "-c",
                "for i in $(seq 10); do timeout 1 wget -q -O - http://peer/; done",
            ),
            lambda said: said.count("demo/web:1 on") == 10,
            8,
        )  # fmt: skip


def test_nothing_breaks_when_agents_are_killed(net: Cluster) -> None:
    """A connection through the virtual IP lives on, and a name waits for the next agent."""
    vip = vip_of(net, "peer", "back")
    pid = pid_of(net, "w1", "peer")
    inside_w1 = ["nsenter", f"--net=/proc/{pid}/ns/net"]
    with subprocess.Popen(
        [*inside_w1, sys.executable, "-c", HOLD, vip],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
    ) as held:  # fmt: skip
        assert held.stdout is not None
        assert held.stdout.readline() == "open\n"
        before = net.pids("w1")["agent"]
        for host in HOSTS:
            net.sandbox("kill", host, "agent")
        begun = time.monotonic()
        asked = subprocess.run(
            [*inside_w1, "busybox", "timeout", "9", "busybox", "nslookup", "tasks.peer",
             "127.0.0.11"],
            capture_output=True, text=True, check=False,
        )  # fmt: skip
        assert asked.stdout.count("Address: 10.") == 5, asked
        assert time.monotonic() - begun < 5
        eventually(lambda: net.pids("w1")["agent"], lambda now: now not in (None, before), 10)
        told, _ = held.communicate(timeout=20)
    assert "demo/web:1 on" in told
    everywhere(net, "peer")


def test_a_host_that_lost_power_comes_back_clean(net: Cluster) -> None:
    before = set(net.tasks("m1", "peer"))
    net.sandbox("kill", "w2")
    eventually(lambda: net.node_state("m1", "w2"), lambda state: state == "Down", 30)
    # its task stands in the store as it was, but nobody sends anything there from now on
    script = "for i in $(seq 20); do timeout 1 wget -q -O - http://peer/; done"
    eventually(
        lambda: inside(net, "w1", "peer", "sh", "-c", script),
        lambda said: said.count("demo/web:1 on") == 20,
        1,
    )
    net.sandbox("start", "w2")
    eventually(lambda: set(net.tasks("m1", "peer")), lambda tasks: tasks == before, 40)
    for client, server in (("w2", "m1"), ("m1", "w2")):
        form = '{{with index .NetworkSettings.Networks "back"}}{{.IPAddress}}{{end}}'
        address = net.docker(server, "inspect", "-f", form, container_of(net, server, "peer"))
        for target in (address, "peer", "tasks.peer"):
            eventually(
                lambda client=client, target=target: ask(net, client, "peer", target),  # type: ignore[misc]
                lambda said: "demo/web:1 on" in said,
                10,
            )


def test_a_stack_with_networks_is_deployed_and_removed(net: Cluster) -> None:
    compose = """
version: "3.8"
services:
  web:
    image: demo/web:1
    networks: [front]
    deploy: {replicas: 2}
  client:
    image: demo/web:1
    networks: [front, back]
networks:
  front: {}
  back: {}
"""
    net.docker("m1", "stack", "deploy", "--detach=true", "--resolve-image=never", "-c", "-",
               "shop", stdin=compose)  # fmt: skip
    net.await_running("m1", "shop_web", 2, 30)
    net.await_running("m1", "shop_client", 1, 30)
    host = net.tasks("m1", "shop_client")[0][0]
    said = ask(net, host, "shop_client", "web")
    assert "demo/web:1 on" in said
    net.docker("m1", "stack", "rm", "shop")
    eventually(
        lambda: net.docker("m1", "network", "ls", "--format", "{{.Name}}"),
        lambda names: "shop" not in names,
        20,
    )


def test_a_service_on_its_hosts_own_network(cluster: Cluster) -> None:
    at = "published=7777,target=7777,mode=host"
    serve = "httpd -f -p 7777 -h /etc"
    create = ("service", "create", "-q", "-d", "--name", "bare", "--mode", "global")
    image = ("--no-resolve-image", "busybox", "sh", "-c", serve)
    cluster.docker("m1", *create, "--network", "host", "-p", at, *image)
    cluster.await_running("m1", "bare", len(cluster.hosts), 20)
    for host, facts in cluster.hosts.items():
        url = f"http://{facts['address']}:7777/hostname"
        said = subprocess.run(["curl", "-s", "-m", "5", url], capture_output=True, check=False)
        assert said.stdout.decode().strip() == host
    assert "Networks: host" in cluster.docker("m1", "service", "inspect", "--pretty", "bare")
    refused = cluster.docker(
        "m1", "service", "update", "--publish-add", "80", "bare", check=False
    )
    assert "on the network host a port can only be published as it is" in refused
    cluster.docker("m1", "service", "rm", "bare")
