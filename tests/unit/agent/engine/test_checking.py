"""Requests for containers that cannot be: refused before anything is made."""

from typing import Any

import pytest

from agent.engine.checking import check, check_limits
from shoal.common.engine_http.body import convert
from shoal.model.container import ContainerCreate, HostConfig
from shoal.model.errors import InvalidArgument, Unimplemented


def run(**said: Any) -> None:
    """As a request says it, on a host of two CPUs, without an init program."""
    host = {"LogConfig": {"Type": "json-file"}, "Runtime": "runc", **said.pop("Host", {})}
    host.setdefault("RestartPolicy", {"Name": "no"})
    asked = convert({"Image": "a", "HostConfig": host, **said}, ContainerCreate)
    check(asked, asked.host_config, init=False, cpus=2)


def test_a_plain_request_passes() -> None:
    run(
        Env=["A=", "B"], ExposedPorts={"80/tcp": {}}, Hostname="a-b.c", Host={"Memory": 8 << 20}
    )
    run(Host={"LogConfig": {"Type": "none"}})


@pytest.mark.parametrize(
    ("said", "sentence"),
    [
        ({"Env": ["=x"]}, "invalid environment variable: =x"),
        ({"Hostname": "a b"}, "invalid hostname format"),
        ({"MacAddress": "x"}, "x is not a valid mac address"),
        ({"WorkingDir": "x"}, "needs to be an absolute path"),
        ({"ExposedPorts": {"x": {}}}, 'invalid port specification: "x"'),
        ({"StopSignal": "X"}, "invalid signal: X"),
        ({"Host": {"CapAdd": ["NOPE"]}}, "NOPE"),
        ({"Host": {"Ulimits": [{"Name": "x"}]}}, "invalid ulimit type: x"),
        ({"Host": {"Ulimits": [{"Name": "core", "Soft": 2, "Hard": 1}]}}, "2 > 1"),
        ({"Host": {"OomScoreAdj": 2000}}, "oom score adj"),
        ({"Host": {"NanoCpus": 3_000_000_000}}, "only 2 CPUs available"),
        ({"Host": {"CpusetCpus": "0-9"}}, "requested 0-9, available: 0-1"),
        ({"Host": {"CpusetCpus": "x"}}, "cpuset cpus"),
        ({"Host": {"CpuShares": -1}}, "CpuShares must not be negative"),
        ({"Host": {"ShmSize": -1}}, "ShmSize must not be negative"),
        ({"Host": {"BlkioWeight": 5}}, "from 10 to 1000"),
        ({"Host": {"Memory": 5}}, "Minimum memory limit allowed is 6MB"),
        ({"Host": {"MemorySwap": 9 << 20}}, "always set the Memory limit"),
        ({"Host": {"PidMode": "x"}}, "invalid pid mode: x"),
        ({"Host": {"IpcMode": "container:"}}, "invalid IPC mode"),
        ({"Host": {"CgroupnsMode": "x"}}, "invalid cgroup namespace mode: x"),
        ({"Host": {"Dns": ["x"]}}, "invalid IP address: x"),
        ({"Host": {"SecurityOpt": ["x"]}}, "security-opt"),
        ({"Host": {"Runtime": "x"}}, "runtime name: x"),
        ({"Host": {"LogConfig": {"Type": "x"}}}, "no log driver named 'x' is registered"),
        (
            {"Host": {"LogConfig": {"Type": "none", "Config": {"max-size": "1m"}}}},
            "unknown log opt 'max-size' for none log driver",
        ),
        (
            {"Host": {"LogConfig": {"Type": "local", "Config": {"x": "1"}}}},
            "unknown log opt 'x' for local log driver",
        ),
        (
            {"Host": {"LogConfig": {"Type": "json-file", "Config": {"max-size": "x"}}}},
            "log opt 'max-size': 'x' is no size",
        ),
    ],
)
def test_what_is_wrong_is_named(said: dict[str, Any], sentence: str) -> None:
    with pytest.raises(InvalidArgument, match="^.*" + sentence.replace("(", r"\(")):
        run(**said)


@pytest.mark.parametrize(
    "host",
    [
        {"Init": True},
        {"UsernsMode": "x"},
        {"StorageOpt": {"size": "1g"}},
        {"DeviceRequests": [{"Count": -1}]},
        {"Links": ["a:b"]},
        {"LogConfig": {"Type": "syslog"}},
        {"LogConfig": {"Type": "local", "Config": {"compress": "true"}}},
        {"KernelMemory": 1 << 20},
        {"KernelMemoryTCP": 1 << 20},
        {"IOMaximumIOps": 1},
    ],
)
def test_what_is_not_there_is_said(host: dict[str, Any]) -> None:
    with pytest.raises(Unimplemented):
        run(Host=host)


def test_an_update_is_held_to_the_same_limits() -> None:
    check_limits(HostConfig(memory=8 << 20, memory_swap=-1), 2)
    with pytest.raises(InvalidArgument):
        check_limits(HostConfig(memory=-1), 2)
