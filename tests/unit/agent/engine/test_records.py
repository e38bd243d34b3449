"""Records on disk: the last whole one counts, of whatever version of the agent."""

import json
import resource
import signal
from datetime import UTC, datetime
from pathlib import Path

import msgspec
import pytest
from msgspec.structs import replace

from agent.engine import records
from agent.engine.records import Record, read
from agent.network.desired import Attachment, Endpoint, Interface, PortBinding
from shoal.model.container import ContainerConfig, HostConfig

RECORD = Record(
    id="a" * 64,
    name="web",
    created_at=datetime(2026, 1, 1, tzinfo=UTC),
    image_id="sha256:1",
    config=ContainerConfig(),
    host_config=HostConfig(),
)


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    made = tmp_path / "all" / RECORD.id
    made.mkdir(parents=True)
    return made


def load(directory: Path) -> Record | None:
    ((place, record),) = records.load_all(directory.parent)
    assert place == directory
    return record


def test_the_newest_counts_and_the_file_stays_small(directory: Path) -> None:
    for count in range(500):
        records.save(directory, replace(RECORD, restart_count=count))
    assert load(directory) == replace(RECORD, restart_count=499)
    file = directory / records.FILE
    assert file.stat().st_size < 2 * records._LONG
    assert file.stat().st_mode & 0o777 == 0o600


def test_a_torn_line_leaves_the_one_before(directory: Path) -> None:
    records.save(directory, RECORD)
    whole = (directory / records.FILE).read_bytes()
    records.save(directory, replace(RECORD, name="other"))
    data = (directory / records.FILE).read_bytes()
    for length in range(len(whole), len(data)):
        (directory / records.FILE).write_bytes(data[:length])
        assert load(directory) == RECORD
        records.save(directory, replace(RECORD, name="third"))
        assert load(directory) == replace(RECORD, name="third")


def test_nothing_whole_is_no_record(directory: Path) -> None:
    (directory / records.FILE).write_bytes(b'{"id":')
    assert load(directory) is None
    (directory / records.FILE).unlink()
    assert load(directory) is None


def test_a_full_disk_leaves_the_one_before(directory: Path) -> None:
    records.save(directory, RECORD)
    size = (directory / records.FILE).stat().st_size
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size + 20, before[1]))
    try:
        with pytest.raises(OSError, match="could be written"):
            records.save(directory, replace(RECORD, name="other"))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
        signal.signal(signal.SIGXFSZ, handler)
    assert load(directory) == RECORD
    records.save(directory, replace(RECORD, name="third"))
    assert load(directory) == replace(RECORD, name="third")


OLD = {
    "id": "c1",
    "name": "web",
    "created_at": "2026-01-02T03:04:05Z",
    "image_id": "sha256:1",
    "config": {},
    "host_config": {},
    "network": "mesh",
    "endpoint": {
        "container": "c1",
        "network": "mesh",
        "address": "10.0.1.2",
        "prefix_length": 24,
        "gateway": "10.0.1.1",
        "mac": "02:42:0a:00:01:02",
        "ports": [{"container_port": 80, "host_port": 8080}],
    },
}


def test_an_endpoint_that_was_one_interface_becomes_one_with_it() -> None:
    endpoint = read(json.dumps(OLD).encode()).endpoint
    assert endpoint == Endpoint(
        container="c1",
        interfaces=(
            Interface(
                network="mesh",
                addresses=("10.0.1.2/24",),
                gateways=("10.0.1.1",),
                mac="02:42:0a:00:01:02",
            ),
        ),
        ports=(PortBinding(container_port=80, host_port=8080),),
    )


def test_a_container_without_network_stays_without() -> None:
    none = {"container": "c1", "network": "none"}
    old = read(json.dumps({**OLD, "endpoint": none}).encode())
    assert old.endpoint == Endpoint(container="c1")
    assert read(json.dumps({**OLD, "endpoint": None}).encode()).endpoint is None


def test_what_is_written_now_is_read_as_it_is() -> None:
    record = msgspec.structs.replace(
        read(json.dumps(OLD).encode()),
        attachments=(Attachment(network="n1", addresses=("10.9.0.2/24",)),),
        endpoint=Endpoint(
            container="c1",
            interfaces=(
                Interface(network="n1", addresses=("10.9.0.2/24", "fd00::2/64"), link="x"),
            ),
        ),
    )
    assert isinstance(record, Record)
    assert read(msgspec.json.encode(record)) == record
