"""Bad input on a real host's socket: a 4xx with a sentence, and the daemons are as before."""

import gzip
import json
import random
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import quote

import pytest

from tests.badinput.asking import Answer, ask, connected, raw
from tests.badinput.routes import CLUSTER, CONTAINER, HOST, SERVICE, Entry
from tests.badinput.spoiling import spoil
from tests.badinput.values import BAD_FILTERS, BAD_TEXTS, refusal_fault
from tests.e2e.cluster import Cluster

pytestmark = [pytest.mark.root, pytest.mark.e2e, pytest.mark.timeout(300)]

SHARE = 250
MEGABYTE = 1 << 20
HEAD = b"Host: d\r\nConnection: close\r\nContent-Type: application/json\r\n"
CREATE = b"POST /containers/create HTTP/1.1\r\n" + HEAD
BOMB = gzip.compress(b"\0" * (64 * MEGABYTE))
RAW = {
    "a body of 100 MB": (
        CREATE + b"Content-Length: 104857600\r\n\r\n",
        *[b"x" * MEGABYTE] * 100,
    ),
    "100 MB in chunks": (
        CREATE + b"Transfer-Encoding: chunked\r\n\r\n",
        *[b"100000\r\n" + b"x" * MEGABYTE + b"\r\n"] * 100,
    ),
    "a compressed bomb": (
        CREATE + b"Content-Encoding: gzip\r\nContent-Length: %d\r\n\r\n" % len(BOMB),
        BOMB,
    ),
    "nested 10,000 deep": (
        CREATE + b"Content-Length: 20000\r\n\r\n",
        b"[" * 10000 + b"]" * 10000,
    ),
    "no such encoding": (CREATE + b"Transfer-Encoding: nonsense\r\n\r\n{}",),
    "two lengths": (CREATE + b"Content-Length: 2\r\nContent-Length: 3\r\n\r\n{}",),
    "a length below zero": (CREATE + b"Content-Length: -2\r\n\r\n{}",),
    "a chunk of no size": (
        CREATE + b"Transfer-Encoding: chunked\r\n\r\nzz\r\n{}\r\n0\r\n\r\n",
    ),
    "no JSON": (
        CREATE.replace(b"application/json", b"text/html") + b"Content-Length: 2\r\n\r\n{}",
    ),
    "another alphabet": (CREATE + b"Content-Length: 6\r\n\r\n" + "{}".encode("utf-16"),),
    "no HTTP": (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + b"a" * 500,),
}


@pytest.fixture
def sock(host: Cluster) -> Iterator[Path]:
    """The socket of a host in no cluster that has a container; it is as before at the end."""
    path = Path(host.hosts["m1"]["docker_host"].removeprefix("unix://"))
    host.docker("m1", "run", "-d", "--name", "victim", "busybox", "sleep", "3600")
    daemons, things = host.daemons("m1"), counts(path)
    memory = sum(resident(pid) for pid in daemons)
    try:
        yield path
        assert host.daemons("m1") == daemons
        assert counts(path) == things
        assert sum(resident(pid) for pid in daemons) < memory + 64 * MEGABYTE
    finally:
        host.docker("m1", "rm", "-f", "victim")


def counts(sock: Path) -> dict[str, int]:
    """How many things of each kind the host has."""
    volumes = len(ask(sock, "GET", "/volumes").said["Volumes"])
    lists = {"volumes": volumes}
    for path in ("/containers/json?all=1", "/networks", "/images/json"):
        lists[path] = len(ask(sock, "GET", path).said)
    return lists


def resident(pid: int) -> int:
    return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * 4096


def judge(answer: Answer, asked: object, *, head: bool = False) -> None:
    """Any answer but one that says that we broke; to HEAD one without a word."""
    assert answer.status, f"no answer to {asked}"
    if answer.status >= 400:
        assert answer.status in (400, 401, 403, 404, 409, 501, 503), (asked, answer)
    if answer.status >= 400 and not head:
        assert refusal_fault(answer.status, answer.said) == "", (asked, answer)


def clean_up(sock: Path, path: str, answer: Answer) -> None:
    """Take away what was made of a strange body that was no wrong one."""
    if answer.status != 201 or path.endswith("/exec"):
        return
    kind = path.split("/")[1]
    name = answer.said.get("Id") or answer.said.get("ID") or answer.said["Name"]
    assert ask(sock, "DELETE", f"/{kind}/{name}?force=1&v=1").status in (200, 204)


def sample(entry: Entry) -> list[tuple[str, bytes]]:
    assert entry.model is not None
    every = list(spoil(entry.model, entry.body))
    return [
        (one.path, one.body) for one in random.Random(2).sample(every, min(SHARE, len(every)))
    ]


def test_bodies(sock: Path) -> None:
    for entry in HOST:
        if entry.model is None:
            continue
        for place, body in sample(entry):
            answer = ask(sock, "POST", entry.path, body)
            judge(answer, (entry.route, place, body[:200]))
            clean_up(sock, entry.path, answer)


def test_queries_and_filters(sock: Path) -> None:
    for entry in HOST:
        method, _, _ = entry.route.partition(" ")
        joint = "&" if "?" in entry.path else "?"
        asked = [f"{name}={quote(text)}" for name in entry.query for text in BAD_TEXTS]
        asked += [f"filters={quote(text)}" for text in BAD_FILTERS if entry.filters]
        for query in asked:
            answer = ask(sock, method, f"{entry.path}{joint}{query}")
            judge(answer, (entry.route, query[:200]), head=method == "HEAD")


@pytest.mark.parametrize("what", RAW)
def test_no_request_at_all(sock: Path, what: str) -> None:
    answer = raw(sock, *RAW[what])
    assert answer.status == 400, what
    assert refusal_fault(400, answer.said) == ""


def test_half_open_connections_hold_nobody_up(sock: Path) -> None:
    begun = [connected(sock) for _ in range(600)]
    for number, line in enumerate(begun):
        if number % 3 == 1:
            line.sendall(b"GET /_pi")
        elif number % 3 == 2:
            line.sendall(CREATE + b"Content-Length: 100000\r\n\r\n" + b"x" * 50_000)
    assert ask(sock, "GET", "/_ping").status == 200
    pipelined = b"GET /_ping HTTP/1.1\r\nHost: d\r\n\r\n" * 50
    with connected(sock) as line:
        line.sendall(pipelined)
        said = b""
        while said.count(b"HTTP/1.1 200") < 50:
            said += line.recv(1 << 16)
    for line in begun:
        line.close()
    assert ask(sock, "GET", "/info").status == 200


def test_a_refused_container_leaves_no_volume(sock: Path) -> None:
    mounts = [
        {"Type": "volume", "Source": "fresh", "Target": "/a"},
        {"Type": "volume", "Target": "/b"},
        {"Type": "bind", "Source": "/no/such/place", "Target": "/c"},
    ]
    host = {**CONTAINER["HostConfig"], "Mounts": mounts}
    answer = ask(sock, "POST", "/containers/create",
                 json.dumps({**CONTAINER, "HostConfig": host}).encode())  # fmt: skip
    assert answer.status == 400
    assert "bind source path does not exist: /no/such/place" in answer.said["message"]


def test_a_cluster_is_as_before(cluster: Cluster) -> None:
    path = Path(cluster.hosts["m2"]["docker_host"].removeprefix("unix://"))
    before = cluster.docker("m2", "service", "ls", "-q"), cluster.daemons("m2")
    for entry in CLUSTER:
        if entry.model is None or entry.path.startswith(("/swarm/", "/networks/", "/internal")):
            continue
        for place, body in sample(entry):
            answer = ask(path, "POST", entry.path, body)
            judge(answer, (entry.route, place, body[:200]))
            clean_up(path, entry.path, answer)
    big = {**SERVICE, "Labels": {"big": "x" * (MEGABYTE + 1)}}
    answer = ask(path, "POST", "/services/create", json.dumps(big).encode())
    assert answer.status == 400
    assert "too large" in answer.said["message"]
    assert (cluster.docker("m2", "service", "ls", "-q"), cluster.daemons("m2")) == before
