"""A container as the API shows it: `inspect` and the rows of `ps`. Pure.

What a person asked for is shown as it was given; what it became (addresses, ports, mounts,
state) comes from the record.
"""

import hashlib
from datetime import datetime, timedelta
from typing import Any

import msgspec

from agent.engine import ports, shown_networks
from agent.engine.records import Record
from agent.engine.shown_networks import Networks
from agent.health.counting import Health

NEVER = "0001-01-01T00:00:00Z"


class Shown(msgspec.Struct, frozen=True, kw_only=True):
    """What is shown of a container besides its record.

    Attributes:
        directory: of the container on the host; `files`: of its hosts, hostname, resolv.conf.
    """

    record: Record
    health: Health | None
    execs: tuple[str, ...]
    directory: str
    files: str
    networks: Networks


def network_id(instance: str, name: str) -> str:
    """The id of one of the host's own networks: the same after every restart."""
    return hashlib.sha256(f"{instance}/{name}".encode()).hexdigest()


def stamp(at: datetime | None) -> str:
    """RFC 3339 with nanoseconds, as Go writes it."""
    if at is None:
        return NEVER
    text = f"{at:%Y-%m-%dT%H:%M:%S}.{at.microsecond * 1000:09d}".rstrip("0").rstrip(".")
    return text + "Z"


def inspect(shown: Shown) -> dict[str, Any]:
    """The reply of `GET /containers/x/json`."""
    record, state = shown.record, shown.record.state
    root = f"{shown.directory}/fs"
    started = state.started_at is not None
    command = record.command
    return {
        "Id": record.id,
        "Created": stamp(record.created_at),
        "Path": command[0] if command else "",
        "Args": list(command[1:]),
        "State": _state(shown),
        "Image": record.image_id,
        "ResolvConfPath": f"{shown.files}/resolv.conf" if started else "",
        "HostnamePath": f"{shown.files}/hostname" if started else "",
        "HostsPath": f"{shown.files}/hosts" if started else "",
        "LogPath": f"{shown.directory}/log",
        "Name": f"/{record.name}",
        "RestartCount": record.restart_count,
        "Driver": "overlay2",
        "Platform": "linux",
        "MountLabel": "",
        "ProcessLabel": "",
        "AppArmorProfile": "",
        "ExecIDs": sorted(shown.execs) or None,
        "HostConfig": _host_config(record),
        "GraphDriver": {
            "Data": {
                "ID": record.id,
                "MergedDir": f"{root}/merged",
                "UpperDir": f"{root}/upper",
                "WorkDir": f"{root}/work",
            },
            "Name": "overlay2",
        },
        "Mounts": [_mount(mount) for mount in record.mounts],
        "Config": _config(record),
        "NetworkSettings": _network_settings(shown),
    }


def row(shown: Shown, now: datetime) -> dict[str, Any]:
    """An entry of `GET /containers/json`."""
    record = shown.record
    config = record.config
    return {
        "Id": record.id,
        "Names": [f"/{record.name}"],
        "Image": config.image,
        "ImageID": record.image_id,
        "Command": " ".join(_quoted(word) for word in record.command),
        "Created": int(record.created_at.timestamp()),
        "Ports": ports.listed(config, record.endpoint),
        "Labels": dict(config.labels),
        "State": record.state.status,
        "Status": status(record, shown.health, now),
        "HostConfig": {"NetworkMode": record.host_config.network_mode},
        "NetworkSettings": {"Networks": shown_networks.shape(record, shown.networks)},
        "Mounts": [_mount(mount) for mount in record.mounts],
    }


def status(record: Record, health: Health | None, now: datetime) -> str:
    """`Up 5 minutes (healthy)`, `Exited (0) 2 hours ago`."""
    state = record.state
    if state.running and state.started_at is not None:
        text = f"Up {_ago(now - state.started_at)}"
        if state.status == "paused":
            return text + " (Paused)"
        if health is None:
            return text
        return text + (
            " (health: starting)" if health.status == "starting" else f" ({health.status})"
        )
    ended = _ago(now - state.finished_at) if state.finished_at else ""
    match state.status:
        case "restarting":
            return f"Restarting ({state.exit_code}) {ended} ago"
        case "removing":
            return "Removal In Progress"
        case "dead":
            return "Dead"
        case "created":
            return "Created"
        case _:
            return f"Exited ({state.exit_code}) {ended} ago" if ended else "Created"


def _state(shown: Shown) -> dict[str, Any]:
    state = shown.record.state
    shape: dict[str, Any] = {
        "Status": state.status,
        "Running": state.running or state.status == "restarting",
        "Paused": state.status == "paused",
        "Restarting": state.status == "restarting",
        "OOMKilled": state.oom_killed,
        "Dead": state.status == "dead",
        "Pid": state.pid,
        "ExitCode": state.exit_code,
        "Error": state.error,
        "StartedAt": stamp(state.started_at),
        "FinishedAt": stamp(state.finished_at),
    }
    if shown.health is not None:
        shape["Health"] = {
            "Status": shown.health.status,
            "FailingStreak": shown.health.failing_streak,
            "Log": [
                {
                    "Start": stamp(probe.start),
                    "End": stamp(probe.end),
                    "ExitCode": probe.exit_code,
                    "Output": probe.output,
                }
                for probe in shown.health.log
            ],
        }
    return shape


def _config(record: Record) -> dict[str, Any]:
    shape: dict[str, Any] = msgspec.to_builtins(record.config)
    shape.setdefault("OnBuild", None)
    shape["Env"] = shape.get("Env") or []
    return shape


def _host_config(record: Record) -> dict[str, Any]:
    shape: dict[str, Any] = msgspec.to_builtins(record.host_config)
    for key in ("BlkioWeightDevice", "BlkioDeviceReadBps", "BlkioDeviceWriteBps"):
        shape.setdefault(key, [])
    for key in ("BlkioDeviceReadIOps", "BlkioDeviceWriteIOps"):
        shape.setdefault(key, [])
    return shape


def _mount(mount: Any) -> dict[str, Any]:
    shape: dict[str, Any] = msgspec.to_builtins(mount)
    shape.setdefault("RW", True)
    return shape


def _network_settings(shown: Shown) -> dict[str, Any]:
    record = shown.record
    endpoint = record.endpoint if record.state.running else None
    bridged = shown_networks.default_interface(record, shown.networks)
    return {
        "Bridge": "",
        "SandboxID": record.id if endpoint else "",
        "SandboxKey": f"/proc/{record.state.pid}/ns/net" if endpoint else "",
        "Ports": ports.by_container_port(record.config, endpoint) if endpoint else {},
        "HairpinMode": False,
        "LinkLocalIPv6Address": "",
        "LinkLocalIPv6PrefixLen": 0,
        "SecondaryIPAddresses": None,
        "SecondaryIPv6Addresses": None,
        "EndpointID": record.id if bridged.addresses else "",
        "Gateway": bridged.gateway,
        "GlobalIPv6Address": "",
        "GlobalIPv6PrefixLen": 0,
        "IPAddress": bridged.ipv4,
        "IPPrefixLen": bridged.prefix_length,
        "IPv6Gateway": "",
        "MacAddress": bridged.mac,
        "Networks": shown_networks.shape(record, shown.networks),
    }


def _quoted(word: str) -> str:
    return f"'{word}'" if " " in word else word


def _ago(length: timedelta) -> str:
    """go-units' HumanDuration."""
    seconds = int(length.total_seconds())
    if seconds < 1:
        return "Less than a second"
    if seconds == 1:
        return "1 second"
    if seconds < 60:
        return f"{seconds} seconds"
    minutes, hours = seconds // 60, round(seconds / 3600)
    if minutes == 1:
        return "About a minute"
    if minutes < 60:
        return f"{minutes} minutes"
    if hours == 1:
        return "About an hour"
    if hours < 48:
        return f"{hours} hours"
    days = hours // 24
    for size, unit in ((14, 0), (60, 7), (730, 30)):
        if days < size:
            return f"{days} days" if not unit else _many(days // unit, unit)
    return f"{days // 365} years"


def _many(count: int, unit: int) -> str:
    return f"{count} weeks" if unit == 7 else f"{count} months"
