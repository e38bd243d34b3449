"""The arithmetic of removal, the command line, and who waits behind whom."""

import pytest

from manager.member import (
    Peer,
    PeerTLS,
    etcd_argv,
    initial_flags,
    peer_url,
    removal_refusal,
)
from manager.store.kv import Member
from shoal.common.config import HostConfig
from shoal.model.ids import ClusterID, NodeID


def group(*names: str, learners: tuple[str, ...] = ()) -> list[Member]:
    return [
        Member(number, name, (f"https://{name}:2384",), (), is_learner=name in learners)
        for number, name in enumerate((*names, *learners), start=1)
    ]


@pytest.mark.parametrize(
    ("members", "reachable", "removable"),
    [
        (group("a"), {"a"}, False),
        (group("a", "b"), {"a", "b"}, True),
        (group("a", "b"), {"a"}, False),
        (group("a", "b", "c"), {"b", "c"}, True),
        (group("a", "b", "c"), {"a", "b"}, False),
        (group("a", "b", "c", "d", "e"), {"a", "b", "c"}, False),
        (group("a", "b", "c", "d", "e"), {"b", "c", "d"}, True),
        (group("a", "b", learners=("c",)), {"a", "c"}, False),
    ],
)
def test_a_removal_leaves_a_quorum_or_is_refused(
    members: list[Member], reachable: set[str], removable: bool
) -> None:
    assert (removal_refusal(members, 1, reachable) == "") is removable


def test_learners_and_strangers_are_always_removable() -> None:
    members = group("a", learners=("b",))
    assert removal_refusal(members, 2, set()) == ""
    assert removal_refusal(members, 9, set()) == ""


def test_the_refusal_counts() -> None:
    assert "leaves 1 managers out of 3, and the remaining 2 need 2" in removal_refusal(
        group("a", "b", "c"), 3, {"a", "c"}
    )


def test_the_command_line_names_the_node_and_its_cluster() -> None:
    config = HostConfig(address="fd00::1", etcd_port=2484, etcd="/opt/etcd")
    first = initial_flags("new", [Peer("n1", peer_url("fd00::1", 2484))])
    argv = etcd_argv(config, NodeID("n1"), ClusterID("c1"), PeerTLS("c", "k", "a"), first)
    assert argv[0] == "/opt/etcd"
    assert "--name=n1" in argv
    assert "--initial-cluster-token=c1" in argv
    assert "--listen-peer-urls=https://[fd00::1]:2484" in argv
    assert argv[-1] == "--initial-cluster=n1=https://[fd00::1]:2484"
    assert "--snapshot-count=10000" in argv  # 3.4's own 100,000 entries stay in memory
    assert not any("force" in flag for flag in argv)
