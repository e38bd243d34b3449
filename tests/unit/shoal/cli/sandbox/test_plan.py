from pathlib import Path

import pytest

from shoal.cli.sandbox.plan import SandboxPlan, check_name, check_size
from shoal.model.errors import InvalidArgument, NotFound


def plan(
    name: str = "quick", subnet: int = 7, managers: int = 3, workers: int = 2
) -> SandboxPlan:
    return SandboxPlan(
        name=name,
        subnet=subnet,
        managers=managers,
        workers=workers,
        uplink=False,
        base=Path("/base"),
    )


def test_hosts_have_names_roles_and_addresses() -> None:
    told = [(host.name, host.role, host.address) for host in plan().hosts]
    assert told == [
        ("m1", "manager", "10.77.7.11"),
        ("m2", "manager", "10.77.7.12"),
        ("m3", "manager", "10.77.7.13"),
        ("w1", "worker", "10.77.7.101"),
        ("w2", "worker", "10.77.7.102"),
    ]


def test_files_lie_below_the_host() -> None:
    host = plan().host("w1")
    assert host.docker_host == "unix:///base/quick/w1/run/docker.sock"
    assert host.log == Path("/base/quick/w1/state/host.log")


def test_the_largest_sandbox_has_unique_names_within_the_kernels_limits() -> None:
    largest = plan(name="a" * 24, subnet=254, managers=89, workers=99)
    hosts = largest.hosts
    for unique in ("name", "address", "mac", "netns", "instance", "cgroup", "directory"):
        assert len({getattr(host, unique) for host in hosts}) == len(hosts)
    assert max(len(host.instance) for host in hosts) <= 6
    assert len(largest.machine_link) <= 15
    assert largest.machine_address not in {host.address for host in hosts}


def test_two_sandboxes_share_nothing() -> None:
    one, other = plan("a", 1), plan("b", 2)
    for name in ("link_netns", "machine_link", "network", "nft_table", "directory"):
        assert getattr(one, name) != getattr(other, name)
    assert not {h.instance for h in one.hosts} & {h.instance for h in other.hosts}


def test_an_unknown_host_is_told_with_those_there_are() -> None:
    with pytest.raises(NotFound, match=r"has no host w9; its hosts are m1, m2, m3, w1, w2"):
        plan().host("w9")


@pytest.mark.parametrize("name", ["", "A", "a_b", "-a", "a-", "a/b", "..", "a" * 25, "a\n"])
def test_names_that_could_not_stand_in_a_path_are_refused(name: str) -> None:
    with pytest.raises(InvalidArgument):
        check_name(name)


@pytest.mark.parametrize("name", ["a", "a-b", "7", "a" * 24])
def test_names(name: str) -> None:
    check_name(name)


@pytest.mark.parametrize(("managers", "workers"), [(0, 1), (-1, 0), (90, 0), (1, -1), (1, 100)])
def test_sizes_without_addresses_are_refused(managers: int, workers: int) -> None:
    with pytest.raises(InvalidArgument):
        check_size(managers, workers)
