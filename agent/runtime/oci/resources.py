"""The limits of a container in OCI's words, and which devices it may open. P.

Used by `bundle` at creation and by the engine for `docker update`. The same object serves
cgroup v1 and v2; runc translates (CPU shares to weights, swap totals to swap alone).
"""

from collections.abc import Iterable, Mapping
from typing import Any

from agent.runtime.oci.request import ResolvedDevice
from shoal.model.container import HostConfig, ThrottleDevice
from shoal.model.errors import InvalidArgument
from shoal.model.numbers import whole

_PERIOD = 100_000  # microseconds, Docker's for NanoCpus

_NULL = (("c", 1, 5), ("c", 1, 3), ("c", 1, 9), ("c", 1, 8), ("c", 5, 0), ("c", 5, 1))
_BASE_RULES = (
    *({"allow": True, "type": k, "major": a, "minor": b, "access": "rwm"} for k, a, b in _NULL),
    {"allow": False, "type": "c", "major": 10, "minor": 229, "access": "rwm"},
    {"allow": True, "type": "c", "access": "m"},
    {"allow": True, "type": "b", "access": "m"},
    {"allow": True, "type": "c", "major": 1, "minor": 7, "access": "rwm"},
    {"allow": True, "type": "c", "major": 136, "access": "rwm"},
    {"allow": True, "type": "c", "major": 5, "minor": 2, "access": "rwm"},
)


def resources(
    host: HostConfig, numbers: Mapping[str, tuple[int, int]] | None = None
) -> dict[str, Any]:
    """`linux.resources` without the device cgroup; only what was asked for appears.

    `numbers` are those of the block devices that have bounds; without them the bounds are left
    as they are.
    """
    check(host)
    found: dict[str, Any] = {}
    if cpu := _cpu(host):
        found["cpu"] = cpu
    if memory := _memory(host):
        found["memory"] = memory
    if host.pids_limit:
        found["pids"] = {"limit": host.pids_limit if host.pids_limit > 0 else -1}
    block: dict[str, Any] = {"weight": host.blkio_weight} if host.blkio_weight else {}
    if numbers:
        block |= _bounds(host, numbers)
    if block:
        found["blockIO"] = block
    return found


def block_devices(host: HostConfig) -> set[str]:
    """Paths of the block devices that have a weight or bound."""
    weights = [each.path for each in host.blkio_weight_device or ()]
    return {*weights, *(each.path for _, bounds in _throttles(host) for each in bounds)}


def _throttles(host: HostConfig) -> Iterable[tuple[str, Iterable[ThrottleDevice]]]:
    yield "throttleReadBpsDevice", host.blkio_device_read_bps or ()
    yield "throttleWriteBpsDevice", host.blkio_device_write_bps or ()
    yield "throttleReadIOPSDevice", host.blkio_device_read_iops or ()
    yield "throttleWriteIOPSDevice", host.blkio_device_write_iops or ()


def _bounds(host: HostConfig, numbers: Mapping[str, tuple[int, int]]) -> dict[str, Any]:
    def of(path: str) -> dict[str, Any]:
        major, minor = numbers[path]
        return {"major": major, "minor": minor}

    found: dict[str, Any] = {
        key: [{**of(each.path), "rate": each.rate} for each in bounds]
        for key, bounds in _throttles(host)
    }
    found["weightDevice"] = [
        {**of(each.path), "weight": each.weight} for each in host.blkio_weight_device or ()
    ]
    return {key: value for key, value in found.items() if value}


def device_rules(
    host: HostConfig, devices: Iterable[ResolvedDevice], *, privileged: bool
) -> list[dict[str, Any]]:
    """The device cgroup: all for the privileged, else Docker's list and what was given."""
    if privileged:
        return [{"allow": True, "access": "rwm"}]
    rules: list[dict[str, Any]] = [{"allow": False, "access": "rwm"}, *_BASE_RULES]
    rules += [
        {
            "allow": True,
            "type": device.kind,
            "major": device.major,
            "minor": device.minor,
            "access": device.permissions,
        }
        for device in devices
    ]
    return rules + [device_rule(rule) for rule in host.device_cgroup_rules or ()]


def _cpu(host: HostConfig) -> dict[str, Any]:
    cpu: dict[str, Any] = {
        "shares": host.cpu_shares,
        "period": host.cpu_period,
        "quota": host.cpu_quota,
        "cpus": host.cpuset_cpus,
        "mems": host.cpuset_mems,
        "realtimePeriod": host.cpu_realtime_period,
        "realtimeRuntime": host.cpu_realtime_runtime,
    }
    if host.nano_cpus:
        cpu["period"] = _PERIOD
        cpu["quota"] = host.nano_cpus * _PERIOD // 1_000_000_000
    return {key: value for key, value in cpu.items() if value}


def _memory(host: HostConfig) -> dict[str, Any]:
    memory: dict[str, Any] = {}
    if host.memory:
        memory["limit"] = host.memory
        # Docker gives as much swap as memory where nothing is said: a total of twice the limit.
        memory["swap"] = host.memory_swap or 2 * host.memory
    if host.memory_reservation:
        memory["reservation"] = host.memory_reservation
    if host.memory_swappiness is not None and host.memory_swappiness >= 0:
        memory["swappiness"] = host.memory_swappiness
    if host.oom_kill_disable:
        memory["disableOOMKiller"] = True
    return memory


def check(host: HostConfig) -> None:
    """Refuse limits that contradict each other."""
    problem = ""
    if host.nano_cpus and (host.cpu_quota or host.cpu_period):
        problem = "Conflicting options: Nano CPUs and CPU Period/Quota cannot both be set"
    elif host.memory and host.memory < 6 << 20:
        problem = "Minimum memory limit allowed is 6MB"
    elif host.memory_swap > 0 and not host.memory:
        problem = "You should always set the Memory limit when using Memoryswap limit"
    elif 0 < host.memory_swap < host.memory:
        problem = "Minimum memoryswap limit should be larger than memory limit, see usage"
    elif host.memory and host.memory_reservation > host.memory:
        problem = (
            "Minimum memory limit can not be less than memory reservation limit, see usage"
        )
    elif host.blkio_weight and not 10 <= host.blkio_weight <= 1000:
        problem = "Range of blkio weight is from 10 to 1000"
    elif any(not 10 <= each.weight <= 1000 for each in host.blkio_weight_device or ()):
        problem = "BlkioWeightDevice: the range of a weight is from 10 to 1000"
    elif any(each.rate <= 0 for _, bounds in _throttles(host) for each in bounds):
        problem = "the rate of a block device (BlkioDevice...) must be above 0"
    if problem:
        raise InvalidArgument(problem, field="HostConfig")


def device_rule(rule: str) -> dict[str, Any]:
    """`c 42:* rmw`, as `--device-cgroup-rule` takes it."""
    words = rule.split()
    numbers = words[1].split(":") if len(words) == 3 else []
    known = len(numbers) == 2 and all(
        part == "*" or whole(part) is not None for part in numbers
    )
    if not known or words[0] not in {"a", "b", "c"} or set(words[2]) - set("rwm"):
        raise InvalidArgument(
            f"invalid device cgroup rule {rule!r}: should be like 'c 42:* rwm'",
            field="HostConfig.DeviceCgroupRules",
        )
    parsed: dict[str, Any] = {"allow": True, "type": words[0], "access": words[2]}
    for key, part in zip(("major", "minor"), numbers, strict=True):
        if part != "*":
            parsed[key] = int(part)
    return parsed
