"""Hosts, hostname and resolv.conf follow a running container, unless somebody changed them."""

from datetime import UTC, datetime
from pathlib import Path

import pytest

from agent.engine import own_files
from agent.engine.container import Container
from agent.engine.records import Record
from agent.network.desired import BRIDGE, Endpoint, Interface
from shoal.model.container import ContainerConfig, HostConfig

ON_BRIDGE = Interface(network=BRIDGE, addresses=("172.17.0.2/16",), gateways=("172.17.0.1",))
ON_RED = Interface(network="red", name="eth1", addresses=("10.66.0.2/24",))


@pytest.fixture
def container(tmp_path: Path) -> Container:
    directory, bundle = tmp_path / "state", tmp_path / "run" / "c1"
    directory.mkdir()
    bundle.mkdir(parents=True)
    record = Record(
        id="c1",
        name="web",
        created_at=datetime(2026, 1, 1, tzinfo=UTC),
        image_id="i",
        config=ContainerConfig(hostname="web"),
        host_config=HostConfig(dns=("192.0.2.9",)),
        endpoint=Endpoint(container="c1", interfaces=(ON_BRIDGE,)),
    )
    made = Container(record, directory, bundle)
    own_files.write(made, record.endpoint)
    return made


async def attach(container: Container, *interfaces: Interface) -> None:
    container.change(endpoint=Endpoint(container="c1", interfaces=interfaces))
    await own_files.follow(container)


def read(container: Container, name: str) -> str:
    return (container.bundle / name).read_text()


async def test_a_network_with_names_is_asked_while_the_container_is_on_one(
    container: Container,
) -> None:
    before = read(container, "resolv.conf")
    assert before.startswith("nameserver 192.0.2.9\n")
    inode = (container.bundle / "resolv.conf").stat().st_ino
    await attach(container, ON_BRIDGE, ON_RED)
    assert read(container, "resolv.conf").startswith("nameserver 127.0.0.11\n")
    assert (container.bundle / "resolv.conf").stat().st_ino == inode  # it is mounted
    assert "172.17.0.2\tweb\n10.66.0.2\tweb\n" in read(container, "hosts")
    await attach(container, ON_BRIDGE)
    assert read(container, "resolv.conf") == before
    assert "10.66.0.2" not in read(container, "hosts")


async def test_a_file_that_somebody_changed_is_left_alone(container: Container) -> None:
    (container.bundle / "resolv.conf").write_text("nameserver 198.51.100.1\n")
    await attach(container, ON_BRIDGE, ON_RED)
    assert read(container, "resolv.conf") == "nameserver 198.51.100.1\n"
    assert "10.66.0.2" in read(container, "hosts")


async def test_files_of_an_older_agent_are_left_alone(container: Container) -> None:
    for mark in container.bundle.glob("*.digest"):
        mark.unlink()
    before = read(container, "resolv.conf")
    await attach(container, ON_BRIDGE, ON_RED)
    assert read(container, "resolv.conf") == before


def test_who_shares_a_network_has_that_ones_files(container: Container) -> None:
    container.change(files_of="c2")
    assert own_files.directory(container) == container.bundle.with_name("c2")
