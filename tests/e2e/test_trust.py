"""Who may come in: joins, tokens, certificates of others, demoted and removed nodes.

The test itself calls the hosts' ports, with identities copied from their state directories:
what somebody with a stolen, foreign or outdated certificate could do.
"""

import asyncio
import json
import os
import ssl
from collections.abc import Awaitable, Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import aiohttp
import grpc.aio
import msgspec
import pytest

from proto import ca_pb2, ca_pb2_grpc, dispatcher_pb2, dispatcher_pb2_grpc, members_pb2
from proto.members_pb2_grpc import MembersStub
from shoal.common.certificates import Role, cluster_role_name, new_csr_pem, new_key_pem
from shoal.common.identity import Identity, IdentityStore
from shoal.common.rpc import channel, from_status, unary
from shoal.common.tls import client_context
from shoal.model.errors import ClusterError, NotFound, PermissionDenied, Unavailable
from tests.e2e.cluster import Cluster, eventually

pytestmark = [pytest.mark.root, pytest.mark.e2e, pytest.mark.timeout(120)]

AT_ONCE = 2.0
"""Seconds from the command that demotes or removes to the first refusal."""


class Doors:
    """The ports of one host, knocked at with some identity."""

    def __init__(self, cluster: Cluster, host: str) -> None:
        self.address = str(cluster.hosts[host]["address"])
        self.owner = identity(cluster, host)

    async def admit(self, who: Identity) -> None:
        """The managers' call that hands out the store's data key."""
        request = members_pb2.AdmitRequest(peer_url=f"https://{self.address}:2384")
        await self._call(who, lambda to: unary(MembersStub(to).Admit, request, seconds=5))

    async def remove(self, who: Identity, node: str) -> None:
        request = members_pb2.RemoveRequest(node_id=node)
        await self._call(who, lambda to: unary(MembersStub(to).Remove, request, seconds=5))

    async def issue_etcd(self, who: Identity) -> None:
        request = ca_pb2.IssueEtcdPeerRequest(csr_pem=new_csr_pem(new_key_pem()))
        await self._call(
            who, lambda to: unary(ca_pb2_grpc.CAStub(to).IssueEtcdPeer, request, seconds=5)
        )

    async def renew(self, who: Identity) -> None:
        request = ca_pb2.RenewRequest(csr_pem=new_csr_pem(new_key_pem()))
        await self._call(
            who, lambda to: unary(ca_pb2_grpc.CAStub(to).Renew, request, seconds=5)
        )

    async def session(self, who: Identity) -> None:
        async def open_one(to: Any) -> None:
            stream = dispatcher_pb2_grpc.DispatcherStub(to).Session(timeout=5)
            try:
                await stream.write(
                    dispatcher_pb2.AgentMessage(register=dispatcher_pb2.Register())
                )
                await stream.read()
            except grpc.aio.AioRpcError as failure:
                raise from_status(failure) from failure
            finally:
                stream.cancel()

        await self._call(who, open_one)

    async def engine(self, who: Identity) -> int:
        """The agent's Engine API for managers: the status it answers."""
        connector = aiohttp.TCPConnector(ssl=client_context(self._trusting(who)))
        async with (
            aiohttp.ClientSession(connector=connector) as client,
            client.get(
                f"https://{self.address}:7946/containers/json",
                server_hostname=self.owner.node_id,
                timeout=aiohttp.ClientTimeout(5),
            ) as answer,
        ):
            return answer.status

    async def _call(self, who: Identity, call: Callable[[Any], Awaitable[object]]) -> None:
        name = cluster_role_name(Role.MANAGER, self.owner.cluster_id)
        async with channel(f"{self.address}:2377", self._trusting(who), name) as to:
            await call(to)

    def _trusting(self, who: Identity) -> Identity:
        return msgspec.structs.replace(who, roots_pem=self.owner.roots_pem)


def identity(cluster: Cluster, host: str) -> Identity:
    """A copy of a host's identity as it is now."""
    return IdentityStore(cluster.run_directory(host).with_name("state") / "identity").load()


def run(call: Awaitable[Any]) -> Any:
    async def inside() -> Any:
        return await call

    return asyncio.run(inside())


def refusal(call: Awaitable[Any]) -> ClusterError | None:
    try:
        run(call)
    except ClusterError as error:
        return error
    return None


def join(cluster: Cluster, host: str, token: str, check: bool = True) -> str:
    remote = f"{cluster.hosts['m1']['address']}:2377"
    return cluster.docker(host, "swarm", "join", "--token", token, remote, check=check)


def token(cluster: Cluster, role: str, *flags: str) -> str:
    return cluster.docker("m1", "swarm", "join-token", "-q", *flags, role)


@pytest.fixture(scope="module")
def two() -> Iterator[Cluster]:
    """m1 and m4 have founded a cluster each; m2, m3 and w1 are in none."""
    made = Cluster(f"t{os.getpid() % 100000}")
    try:
        made.up(4, 1, "--bare")
        for host in ("m1", "m4"):
            address = made.hosts[host]["address"]
            made.docker(host, "swarm", "init", "--advertise-addr", address)
        yield made
    finally:
        made.sandbox("down")


def test_tokens_that_are_wrong_rotated_or_of_another_cluster(two: Cluster) -> None:
    old = token(two, "worker")
    new = token(two, "worker", "--rotate")
    assert new != old
    assert "token" in join(two, "w1", old, check=False)
    foreign = two.docker("m4", "swarm", "join-token", "-q", "worker")
    assert "remote CA does not match fingerprint" in join(two, "w1", foreign, check=False)
    assert "token" in join(two, "w1", "SWMTKN-1-nonsense", check=False)
    wrong = new.rpartition("-")[0] + "-" + "1" * 25
    assert "token" in join(two, "w1", wrong, check=False)
    assert two.docker("w1", "info", "-f", "{{.Swarm.LocalNodeState}}") == "inactive"
    join(two, "w1", new)
    eventually(lambda: two.node_state("m1", "w1"), lambda state: state == "Ready", 15)


def test_two_managers_join_at_once(two: Cluster) -> None:
    manager = token(two, "manager")
    with ThreadPoolExecutor(2) as pool:
        list(pool.map(lambda host: join(two, host, manager), ("m2", "m3")))
    form = "{{.Hostname}} {{.Status}} {{.ManagerStatus}}"
    eventually(
        lambda: sorted(two.docker("m3", "node", "ls", "--format", form).splitlines()),
        lambda rows: (
            [r.split(" ", 1)[1] for r in rows[:3]]
            == ["Ready Leader", "Ready Reachable", "Ready Reachable"]
        ),
        20,
    )


def test_a_locked_manager_serves_once_it_is_unlocked(two: Cluster) -> None:
    """Its host ended in order, or lost power; a crash of a process locks nobody out."""
    two.docker("m1", "swarm", "update", "--autolock")
    key = two.docker("m1", "swarm", "unlock-key", "-q")
    state, run = two.run_directory("m3").with_name("state"), two.run_directory("m3")
    eventually(lambda: (state / "manager/data.key").exists(), lambda there: not there, 10)
    two.sandbox("kill", "m3", "manager")
    serves = (lambda: two.docker("m3", "node", "ls", "-q", check=False).split(), 10)
    eventually(serves[0], lambda ids: len(ids) == 4, serves[1])
    for end in ("stop", "kill"):
        two.sandbox(end, "m3")
        two.sandbox("start", "m3")
        assert not (run / "data.key").exists()
        assert "needs to be unlocked" in two.docker("m3", "node", "ls", check=False)
        assert two.docker("m3", "info", "-f", "{{.Swarm.LocalNodeState}}") == "locked"
        wrong = key[:-2] + ("AA" if key[-2:] != "AA" else "BA")
        assert "invalid key" in two.docker("m3", "swarm", "unlock", check=False, stdin=wrong)
        eventually(lambda: two.node_state("m1", "m3"), lambda state: state == "Ready", 15)
        two.docker("m3", "swarm", "unlock", stdin=key)
        eventually(serves[0], lambda ids: len(ids) == 4, serves[1])
    two.docker("m1", "swarm", "update", "--autolock=false")
    eventually(lambda: (state / "manager/data.key").exists(), bool, 10)
    assert "not locked" in two.docker("m3", "swarm", "unlock", check=False, stdin=key)


def test_the_ca_is_changed_while_everything_runs(two: Cluster) -> None:
    """The stock CLI waits until all nodes have followed; no node is lost on the way."""
    two.load("demo-sleep-1")
    two.docker("m1", "service", "create", "-d", "--name", "s", "--mode", "global",
               "demo/sleep:1")  # fmt: skip
    two.await_running("m1", "s", 4, 30)
    before, old = two.containers_of("s", ("m1", "m2", "m3", "w1")), token(two, "worker")
    root = two.docker("m1", "swarm", "ca")
    two.docker("m1", "swarm", "ca", "--rotate", "-q")
    assert two.call("m1", "/swarm")["RootRotationInProgress"] is False
    changed = two.docker("m1", "swarm", "ca")
    assert changed != root
    for node in two.call("m2", "/nodes"):
        assert node["Status"]["State"] == "ready", node
        assert node["Description"]["TLSInfo"]["TrustRoot"].strip() == changed
    assert two.containers_of("s", ("m1", "m2", "m3", "w1")) == before
    two.docker("w1", "swarm", "leave")
    assert "does not match fingerprint" in join(two, "w1", old, check=False)
    node = two.docker("m1", "node", "ls", "-q", "--filter", "name=w1")
    two.docker("m1", "node", "rm", "--force", node)
    join(two, "w1", token(two, "worker"))
    two.await_running("m1", "s", 4, 30)
    two.docker("m1", "service", "rm", "s")


def test_certificate_of_another_cluster_opens_nothing(two: Cluster) -> None:
    stranger = identity(two, "m4")
    for host in ("m1", "m2"):
        doors = Doors(two, host)
        for knock in (doors.admit, doors.issue_etcd, doors.renew, doors.session):
            assert isinstance(refusal(knock(stranger)), Unavailable)
        with pytest.raises((aiohttp.ClientError, ssl.SSLError)):
            run(doors.engine(stranger))


def test_worker_may_not_make_the_managers_calls(two: Cluster) -> None:
    worker = identity(two, "w1")
    doors = Doors(two, "m1")
    victim = identity(two, "m3").node_id
    for knock in (doors.admit(worker), doors.issue_etcd(worker), doors.remove(worker, victim)):
        error = refusal(knock)
        assert isinstance(error, PermissionDenied)
        assert "is a worker and may not call" in str(error)
    for host in ("m1", "m2", "w1"):
        assert run(Doors(two, host).engine(worker)) == 403
    assert run(Doors(two, "w1").engine(identity(two, "m2"))) == 200


def test_demoted_manager_is_one_no_more_at_once(two: Cluster) -> None:
    before = identity(two, "m3")
    others = [Doors(two, host) for host in ("m1", "m2", "w1")]
    assert [run(doors.engine(before)) for doors in others] == [200] * 3
    two.docker("m1", "node", "demote", "m3")
    for doors in others[:2]:
        for knock in (doors.admit, doors.issue_etcd):
            eventually(
                lambda knock=knock: refusal(knock(before)),  # type: ignore[misc]
                lambda error: isinstance(error, PermissionDenied),
                AT_ONCE,
            )
    eventually(
        lambda: [run(doors.engine(before)) for doors in others],
        lambda answers: answers == [403] * 3,
        AT_ONCE,
    )
    eventually(lambda: identity(two, "m3").role, lambda role: role is Role.WORKER, 15)
    eventually(
        lambda: two.pids("m3"), lambda pids: not pids["manager"] and not pids["etcd"], 15
    )
    assert len(members(two, "m1")) == 2
    eventually(lambda: managers_secrets(two, "m3"), lambda left: left == [], 5)


def test_removed_nodes_are_refused_at_every_door(two: Cluster) -> None:
    worker, was_manager = identity(two, "w1"), identity(two, "m2")
    doors = Doors(two, "m1")
    refused = two.docker("m1", "node", "rm", "w1", check=False)
    assert "not down" in refused
    two.docker("m1", "node", "rm", "--force", "w1")
    two.docker("m1", "node", "demote", "m2")
    eventually(lambda: len(members(two, "m1")), lambda count: count == 1, 15)
    two.docker("m1", "node", "rm", "--force", "m2")
    for who in (worker, was_manager):
        assert isinstance(refusal(doors.session(who)), PermissionDenied)
        assert isinstance(refusal(doors.renew(who)), NotFound)
        for knock in (doors.admit, doors.issue_etcd):
            assert isinstance(refusal(knock(who)), PermissionDenied | NotFound)
        assert run(doors.engine(who)) == 403
    form = "{{.Swarm.LocalNodeState}} {{.Swarm.Error}}"
    eventually(
        lambda: two.docker("w1", "info", "-f", form),
        lambda said: said.startswith("error") and "not a member" in said,
        15,
    )
    two.docker("w1", "swarm", "leave")
    join(two, "w1", token(two, "worker"))
    eventually(lambda: two.node_state("m1", "w1"), lambda state: state == "Ready", 15)


def test_host_that_left_serves_another_cluster_as_a_manager(two: Cluster) -> None:
    state = "{{.Swarm.LocalNodeState}}"
    eventually(lambda: two.docker("m2", "info", "-f", state), lambda s: s == "error", 15)
    assert not two.pids("m2")["manager"]
    two.docker("m2", "swarm", "leave")
    assert managers_secrets(two, "m2") == []
    remote = f"{two.hosts['m4']['address']}:2377"
    other = two.docker("m4", "swarm", "join-token", "-q", "manager")
    two.docker("m2", "swarm", "join", "--token", other, remote)
    form = "{{.Hostname}} {{.ManagerStatus}}"
    eventually(
        lambda: sorted(two.docker("m2", "node", "ls", "--format", form).splitlines()),
        lambda rows: rows == ["m2 Reachable", "m4 Leader"],
        15,
    )


def managers_secrets(cluster: Cluster, host: str) -> list[str]:
    """What only a manager may have on its disk."""
    directory = cluster.run_directory(host).with_name("state") / "manager"
    return sorted(path.name for path in directory.glob("*"))


def members(cluster: Cluster, host: str) -> list[str]:
    """Names of the store's members, as etcd on that host knows them."""
    directory = cluster.etcd_directory(host)
    said = cluster.etcdctl(directory, "member", "list", "-w", "json")
    return [member.get("name", "") for member in json.loads(said)["members"]]
