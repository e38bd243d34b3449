"""What a container's processes use and are: `docker stats` and `docker top`."""

import asyncio
import os
from pathlib import Path
from typing import Any

from agent.engine.container import Container
from agent.engine.describe import NEVER, stamp
from agent.runtime.runtime import Runtime, Stats
from shoal.model.errors import Conflict, InvalidArgument

_PS_SECONDS = 10.0


_NO_CPU: dict[str, Any] = {
    "cpu_usage": {"total_usage": 0, "usage_in_kernelmode": 0, "usage_in_usermode": 0},
    "throttling_data": {"periods": 0, "throttled_periods": 0, "throttled_time": 0},
}


def nothing_to_wire(container: Container) -> dict[str, Any]:
    """The one object for a container that does not run: all there, and all zero."""
    return {
        "name": f"/{container.record.name}",
        "id": container.id,
        "read": NEVER,
        "preread": NEVER,
        "pids_stats": {},
        "blkio_stats": {"io_service_bytes_recursive": None, "io_serviced_recursive": None},
        "num_procs": 0,
        "storage_stats": {},
        "cpu_stats": _NO_CPU,
        "precpu_stats": _NO_CPU,
        "memory_stats": {},
    }


def stats_to_wire(container: Container, now: Stats, before: Stats | None) -> dict[str, Any]:
    """One object of the stats stream."""
    ticks = os.sysconf("SC_CLK_TCK")
    system = _system_cpu(ticks)
    return {
        "name": f"/{container.record.name}",
        "id": container.id,
        "read": stamp(now.read_at),
        "preread": stamp(before.read_at) if before else NEVER,
        "pids_stats": {"current": now.pids, "limit": now.pids_limit},
        "blkio_stats": _blocks(now),
        "num_procs": 0,
        "storage_stats": {},
        "cpu_stats": _cpu(now, system),
        "precpu_stats": _cpu(before, system - _elapsed(before, now)) if before else _NO_CPU,
        "memory_stats": {
            "usage": now.memory_usage,
            "max_usage": now.memory_max_usage,
            "stats": dict(now.memory_stat),
            "limit": now.memory_limit or _total_memory(),
            "failcnt": now.memory_failures,
        },
        "networks": _networks(container.state.pid),
    }


def _cpu(stats: Stats, system: int) -> dict[str, Any]:
    return {
        "cpu_usage": {
            "total_usage": stats.cpu_total,
            "usage_in_kernelmode": stats.cpu_system,
            "usage_in_usermode": stats.cpu_user,
        },
        "system_cpu_usage": system,
        "online_cpus": os.cpu_count() or 1,
        "throttling_data": {
            "periods": stats.cpu_periods,
            "throttled_periods": stats.cpu_throttled_periods,
            "throttled_time": stats.cpu_throttled_time,
        },
    }


def _elapsed(before: Stats, now: Stats) -> int:
    """CPU time that the whole machine had between two readings, nanoseconds."""
    seconds = (now.read_at - before.read_at).total_seconds()
    return int(seconds * 1e9) * (os.cpu_count() or 1)


def _system_cpu(ticks: int) -> int:
    fields = Path("/proc/stat").read_text().split("\n", 1)[0].split()[1:8]
    return sum(int(field) for field in fields) * 1_000_000_000 // ticks


def _blocks(stats: Stats) -> dict[str, Any]:
    def entries(kind: str) -> list[dict[str, Any]]:
        return [
            {
                "major": b.major,
                "minor": b.minor,
                "op": b.op,
                "value": b.bytes if kind == "bytes" else b.operations,
            }
            for b in stats.blocks
        ]

    return {
        "io_service_bytes_recursive": entries("bytes"),
        "io_serviced_recursive": entries("operations"),
    }


def _networks(pid: int) -> dict[str, dict[str, int]]:
    names = ("rx_bytes", "rx_packets", "rx_errors", "rx_dropped")
    try:
        lines = Path(f"/proc/{pid}/net/dev").read_text().splitlines()[2:]
    except OSError:
        return {}
    found = {}
    for line in lines:
        name, _, rest = line.partition(":")
        values = [int(value) for value in rest.split()]
        if name.strip() == "lo":
            continue
        received = dict(zip(names, values[:4], strict=True))
        sent = zip((n.replace("rx", "tx") for n in names), values[8:12], strict=True)
        found[name.strip()] = received | dict(sent)
    return found


def _total_memory() -> int:
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


async def top(runtime: Runtime, container: Container, arguments: str) -> dict[str, Any]:
    """The `ps` of a container's processes, by the host's `ps`."""
    if not container.state.running:
        raise Conflict(f"container {container.id} is not running")
    wanted = arguments.split() or ["-ef"]
    if any(
        not (word.replace("-", "").replace(",", "").replace("=", "")).isalnum()
        for word in wanted
    ):
        raise InvalidArgument(f"invalid ps arguments: {arguments!r}", field="ps_args")
    pids = {str(pid) for pid in await runtime.pids(container.id)}
    process = await asyncio.create_subprocess_exec(
        "ps", *wanted, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE
    )
    try:
        async with asyncio.timeout(_PS_SECONDS):
            output, trouble = await process.communicate()
    except BaseException:
        process.kill()
        await process.wait()
        raise
    if process.returncode:
        raise InvalidArgument(f"ps: {trouble.decode(errors='replace').strip()}")
    lines = output.decode(errors="replace").splitlines()
    titles = lines[0].split()
    if "PID" not in titles:
        raise InvalidArgument("Couldn't find PID field in ps output", field="ps_args")
    at = titles.index("PID")
    rows = [line.split(None, len(titles) - 1) for line in lines[1:]]
    return {"Titles": titles, "Processes": [row for row in rows if row[at] in pids]}
