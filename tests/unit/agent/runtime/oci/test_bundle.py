"""A request becomes the OCI configuration that Docker would make."""

import pytest
from msgspec.structs import replace

from agent.runtime.oci.bundle import oci_config
from agent.runtime.oci.capabilities import DEFAULT, capabilities, of_mask
from agent.runtime.oci.process import ExecRequest, environment, exec_process
from agent.runtime.oci.request import ContainerRequest, ResolvedMount, User
from agent.runtime.oci.resources import block_devices, resources
from agent.runtime.oci.seccomp import compile_profile, default_profile
from agent.runtime.oci.users import find_user
from shoal.model.container import (
    ContainerConfig,
    HostConfig,
    ThrottleDevice,
    Ulimit,
    WeightDevice,
)
from shoal.model.errors import InvalidArgument, Unimplemented
from shoal.model.linux import CAPABILITIES

PASSWD = "root:x:0:0::/root:/bin/sh\nweb:x:33:34::/srv:/bin/sh\n"
GROUP = "root:x:0:\nweb:x:34:\nextra:x:44:web\n"


def request(host: HostConfig | None = None) -> ContainerRequest:
    return ContainerRequest(
        id="ab" * 32,
        config=ContainerConfig(cmd=("true",), env=("A=1", "HOME")),
        host=host or HostConfig(),
        rootfs="/r",
        cgroup="/shoal/x",
        user=User(home="/root"),
    )


def test_defaults() -> None:
    config = oci_config(request())
    assert config["hostname"] == "abababababab"
    assert len(DEFAULT) == 14
    assert set(config["process"]["capabilities"]["bounding"]) == set(DEFAULT)
    kinds = {space["type"] for space in config["linux"]["namespaces"]}
    assert kinds == {"mount", "network", "uts", "pid", "ipc"}
    assert {"type": "cgroup"} in oci_config(replace(request(), cgroup_v2=True))["linux"][
        "namespaces"
    ]
    assert "/proc/kcore" in config["linux"]["maskedPaths"]


def test_environment_as_docker_fills_it() -> None:
    names = [entry.partition("=")[0] for entry in environment(request())]
    assert names == ["PATH", "HOSTNAME", "A"]  # `HOME` without a value takes it away


def test_capabilities() -> None:
    assert capabilities((), ("ALL",), privileged=False) == ()
    assert capabilities(("net_admin",), ("ALL",), privileged=False) == ("CAP_NET_ADMIN",)
    assert "CAP_CHOWN" not in capabilities(("ALL",), ("CHOWN",), privileged=False)
    assert capabilities((), (), privileged=True) == CAPABILITIES
    with pytest.raises(InvalidArgument, match="NOPE"):
        capabilities(("NOPE",), (), privileged=False)


def test_limits() -> None:
    host = HostConfig(nano_cpus=500_000_000, memory=64 << 20, pids_limit=9, blkio_weight=300)
    assert resources(host) == {
        "cpu": {"period": 100_000, "quota": 50_000},
        "memory": {"limit": 64 << 20, "swap": 128 << 20},
        "pids": {"limit": 9},
        "blockIO": {"weight": 300},
    }
    with pytest.raises(InvalidArgument, match="6MB"):
        resources(HostConfig(memory=1))


def test_bounds_of_block_devices() -> None:
    host = HostConfig(
        blkio_weight_device=(WeightDevice(path="/dev/a", weight=200),),
        blkio_device_read_bps=(ThrottleDevice(path="/dev/a", rate=5),),
        blkio_device_write_bps=(ThrottleDevice(path="/dev/b", rate=6),),
        blkio_device_read_iops=(ThrottleDevice(path="/dev/b", rate=7),),
        blkio_device_write_iops=(ThrottleDevice(path="/dev/b", rate=8),),
    )
    assert block_devices(host) == {"/dev/a", "/dev/b"}
    made = oci_config(
        replace(request(host), block_devices={"/dev/a": (8, 0), "/dev/b": (8, 16)})
    )
    assert made["linux"]["resources"]["blockIO"] == {
        "weightDevice": [{"major": 8, "minor": 0, "weight": 200}],
        "throttleReadBpsDevice": [{"major": 8, "minor": 0, "rate": 5}],
        "throttleWriteBpsDevice": [{"major": 8, "minor": 16, "rate": 6}],
        "throttleReadIOPSDevice": [{"major": 8, "minor": 16, "rate": 7}],
        "throttleWriteIOPSDevice": [{"major": 8, "minor": 16, "rate": 8}],
    }
    with pytest.raises(InvalidArgument, match="rate"):
        resources(HostConfig(blkio_device_read_bps=(ThrottleDevice(path="/dev/a"),)))
    with pytest.raises(InvalidArgument, match="BlkioWeightDevice"):
        resources(HostConfig(blkio_weight_device=(WeightDevice(path="/dev/a", weight=1),)))


def test_all_capabilities_are_those_that_the_host_can_give() -> None:
    known = tuple(name for name in CAPABILITIES if name != "CAP_SYS_RESOURCE")
    assert of_mask(0x1FFFEFFFFFF) == known
    assert capabilities((), (), privileged=True, known=known) == known
    assert capabilities(("ALL",), (), privileged=False, known=known) == known
    made = oci_config(replace(request(HostConfig(privileged=True)), known_capabilities=known))
    assert made["process"]["capabilities"]["bounding"] == list(known)


def test_an_exec_has_the_limits_of_its_container() -> None:
    limited = request(HostConfig(ulimits=(Ulimit(name="nofile", soft=1, hard=2),)))
    made = exec_process(limited, ExecRequest(args=("true",)))
    assert made["rlimits"] == [{"type": "RLIMIT_NOFILE", "soft": 1, "hard": 2}]
    assert made["rlimits"] == oci_config(limited)["process"]["rlimits"]


def test_how_far_a_bind_goes() -> None:
    own = (
        ResolvedMount(source="/a", target="/whole", read_only=True, read_only_recursive=True),
        ResolvedMount(source="/a", target="/top", read_only=True),
        ResolvedMount(source="/a", target="/alone", recursive=False),
    )
    made = oci_config(replace(request(), mounts=own))["mounts"]
    options = {mount["destination"]: mount["options"] for mount in made}
    assert options["/whole"] == ["rbind", "rprivate", "ro", "rro"]
    assert options["/top"] == ["rbind", "rprivate", "ro"]
    assert options["/alone"] == ["bind", "rprivate"]


def test_message_queues_are_of_the_ipc_namespace_also_of_the_hosts() -> None:
    made = oci_config(request(HostConfig(ipc_mode="host")))["mounts"]
    assert next(m for m in made if m["destination"] == "/dev/mqueue")["type"] == "mqueue"


def test_a_users_mount_replaces_a_default_and_parents_come_first() -> None:
    own = (
        ResolvedMount(source="/a", target="/data/in"),
        ResolvedMount(source="/b", target="/data", read_only=True),
        ResolvedMount(source="/c", target="/dev/shm"),
    )
    made = oci_config(replace(request(), mounts=own))["mounts"]
    places = [mount["destination"] for mount in made]
    assert places.index("/data") < places.index("/data/in")
    assert places.count("/dev/shm") == 1


def test_what_cannot_be_honoured_is_refused() -> None:
    for host in (HostConfig(init=True), HostConfig(userns_mode="private")):
        with pytest.raises(Unimplemented):
            oci_config(request(host))


def test_an_execs_own_user_holds_no_capabilities() -> None:
    process = exec_process(request(), ExecRequest(args=("id",), user=User(uid=33, gid=33)))
    assert process["capabilities"]["effective"] == []
    assert process["user"]["uid"] == 33


def test_users() -> None:
    assert find_user("web", PASSWD, GROUP) == User(uid=33, gid=34, groups=(44,), home="/srv")
    assert find_user("web:extra", PASSWD, GROUP) == User(uid=33, gid=44, home="/srv")
    assert find_user("1234", PASSWD, GROUP) == User(uid=1234, gid=0, home="/")
    assert find_user("", "", "") == User(uid=0, gid=0, home="/")
    with pytest.raises(InvalidArgument, match="unable to find user nobody"):
        find_user("nobody", PASSWD, GROUP)
    with pytest.raises(InvalidArgument, match="unable to find user 999"):
        find_user("9" * 5000, PASSWD, GROUP)


def test_namespace_and_mount_calls_need_the_capability() -> None:
    profile = default_profile()
    plain = compile_profile(profile, DEFAULT, "x86_64")
    admin = compile_profile(profile, (*DEFAULT, "CAP_SYS_ADMIN"), "x86_64")
    free = {
        name
        for rule in plain["syscalls"]
        if rule["action"] == "SCMP_ACT_ALLOW" and "args" not in rule
        for name in rule["names"]
    }
    assert free.isdisjoint({"unshare", "setns", "mount", "umount2", "clone", "clone3"})
    allowed = {name for rule in admin["syscalls"] for name in rule["names"]}
    assert {"unshare", "setns", "mount"} <= allowed
    assert plain["architectures"] == ["SCMP_ARCH_X86_64"]
    full = compile_profile(profile, DEFAULT, "x86_64", full=True)
    assert "SCMP_ARCH_X86" in full["architectures"]
    assert all(not {"includes", "excludes"} & rule.keys() for rule in plain["syscalls"])
