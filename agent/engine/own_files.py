"""Writes a container's hosts, hostname and resolv.conf, and keeps them true while it runs.

They are bind-mounted, so they change in place. A file that somebody has changed since it was
written is that person's from then on, as with Docker: beside each lies the digest of what was
written last. What stands in them: `files`. Used by `preparing` before a start and by `places`
when a running container joins or leaves a network.
"""

import asyncio
import hashlib
from collections.abc import Mapping
from pathlib import Path

from agent.engine import files
from agent.engine.container import Container
from agent.network.desired import Endpoint
from shoal.model.container import HostConfig

NAMES = ("hosts", "hostname", "resolv.conf")


def directory(container: Container) -> Path:
    """Where those lie that it has: its own, or those of the container whose network it has."""
    other = container.record.files_of
    return container.bundle.with_name(other) if other else container.bundle


def write(container: Container, endpoint: Endpoint | None) -> None:
    """All of them, for a run that is about to begin."""
    for name, text in _texts(container, endpoint).items():
        _put(container.bundle / name, text)


async def follow(container: Container) -> None:
    """Make those that nobody has changed say how the running container is attached now."""
    texts = _texts(container, container.record.endpoint)
    await asyncio.to_thread(_follow, container.bundle, texts)


def _follow(directory: Path, texts: Mapping[str, str]) -> None:
    for name, text in texts.items():
        file = directory / name
        if file.exists() and _digest(file.read_bytes()) == _written(file):
            _put(file, text)


def _put(file: Path, text: str) -> None:
    file.write_text(text)
    file.chmod(0o644)
    _mark(file).write_text(_digest(text.encode()))


def _written(file: Path) -> str:
    """Empty where an older agent wrote it: then nobody knows."""
    mark = _mark(file)
    return mark.read_text() if mark.exists() else ""


def _mark(file: Path) -> Path:
    return file.with_name(f"{file.name}.digest")


def _digest(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def _texts(container: Container, endpoint: Endpoint | None) -> dict[str, str]:
    record = container.record
    config, host = record.config, record.host_config
    name = config.hostname or record.id[:12]
    return {
        "hostname": name + "\n",
        "hosts": files.hosts(
            name,
            config.domainname,
            endpoint.own_addresses if endpoint else (),
            endpoint.outward.gateway if endpoint else "",
            host.extra_hosts or (),
        ),
        "resolv.conf": _resolv_conf(host, endpoint),
    }


def _resolv_conf(host: HostConfig, endpoint: Endpoint | None) -> str:
    file = Path("/etc/resolv.conf")
    inherited = file.read_text() if file.exists() else ""
    if endpoint is not None and endpoint.named_networks:
        return files.resolv_conf_with_names(inherited, host)
    return files.resolv_conf(inherited, host, own_network=host.network_mode != "host")
