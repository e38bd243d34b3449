"""`/_ping`, `/version`, `/info`, `/events`, `/system/df`, `/auth`: the host about itself."""

import asyncio
import os
import platform
from datetime import datetime
from pathlib import Path
from typing import Any

import msgspec
from aiohttp import web

from agent.api.cluster import Cluster
from agent.api.images import unix
from agent.engine.describe import stamp
from agent.engine.engine import Engine
from agent.images.image import Image
from agent.images.store import ImageStore
from agent.volumes import size_of
from shoal import __version__
from shoal.common.clock import Clock
from shoal.common.engine_http import versions
from shoal.common.engine_http.call import Call
from shoal.common.engine_http.query import Filters
from shoal.common.engine_http.router import Router
from shoal.model.errors import InvalidArgument, Unimplemented
from shoal.model.log_options import DRIVERS
from shoal.model.spec.task import GenericResource

_KINDS = frozenset({"container", "image", "volume", "build-cache"})
_ARCHITECTURES = {"x86_64": "amd64", "aarch64": "arm64", "armv7l": "arm"}


class Host(msgspec.Struct, frozen=True, kw_only=True):
    """Facts of this host that `info` tells.

    Attributes:
        identity: the host's own id, kept on disk.
    """

    identity: str
    hostname: str
    labels: tuple[str, ...]
    generic_resources: tuple[GenericResource, ...]
    root: str
    cgroup_v2: bool
    runc: str
    conmon: str
    started_at: datetime


class System:
    """Handlers about the host as a whole."""

    def __init__(
        self, engine: Engine, images: ImageStore, cluster: Cluster, host: Host, clock: Clock
    ) -> None:
        self._engine = engine
        self._images = images
        self._cluster = cluster
        self._host = host
        self._clock = clock

    def add_routes(self, router: Router) -> None:
        router.add("GET", "/_ping", self.ping)
        router.add("HEAD", "/_ping", self.ping)
        router.add("GET", "/version", self.version)
        router.add("GET", "/info", self.info)
        router.add("GET", "/system/df", self.disk_usage)
        router.add("POST", "/auth", self.auth)

    async def ping(self, call: Call) -> web.StreamResponse:
        headers = {
            "Builder-Version": "",
            "Cache-Control": "no-cache, no-store, must-revalidate",
            "Pragma": "no-cache",
            "Swarm": self._cluster.ping_state(),
        }
        body = b"" if call.request.method == "HEAD" else b"OK"
        return web.Response(body=body, headers=headers, content_type="text/plain")

    async def version(self, call: Call) -> web.StreamResponse:
        kernel, arch = platform.release(), _architecture()
        top = {
            "Version": versions.ENGINE,
            "ApiVersion": versions.text_of(versions.MAXIMUM),
            "MinAPIVersion": versions.text_of(versions.MINIMUM),
            "GitCommit": f"shoal-{__version__}",
            "GoVersion": f"python{platform.python_version()}",
            "Os": "linux",
            "Arch": arch,
            "KernelVersion": kernel,
            "BuildTime": stamp(self._host.started_at),
        }
        details = {**top, "Experimental": "false"}
        del details["Version"]
        parts = [{"Name": "Engine", "Version": versions.ENGINE, "Details": details}]
        for name, found in (("runc", self._host.runc), ("conmon", self._host.conmon)):
            parts.append({"Name": name, "Version": found, "Details": {"GitCommit": ""}})
        return call.json(
            {"Platform": {"Name": f"Shoal {__version__}"}, "Components": parts, **top}
        )

    async def info(self, call: Call) -> web.StreamResponse:
        cluster = await self._cluster.info()
        states = [container.state.status for container in self._engine.registry]
        memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
        facts: dict[str, Any] = {
            "ID": self._host.identity,
            "Name": self._host.hostname,
            "Labels": self._host.labels,
            "GenericResources": self._host.generic_resources or None,
            "Containers": len(states),
            "ContainersRunning": states.count("running"),
            "ContainersPaused": states.count("paused"),
            "ContainersStopped": len(states) - states.count("running") - states.count("paused"),
            "Images": len(self._images.list()),
            "SystemTime": stamp(self._clock.now()),
            "KernelVersion": platform.release(),
            "OperatingSystem": _operating_system(),
            "OSVersion": _os_release().get("VERSION_ID", ""),
            "Architecture": platform.machine(),
            "NCPU": os.cpu_count() or 1,
            "MemTotal": memory,
            "DockerRootDir": self._host.root,
            "CgroupVersion": "2" if self._host.cgroup_v2 else "1",
            "OomKillDisable": not self._host.cgroup_v2,
            "RuncCommit": {"ID": self._host.runc, "Expected": self._host.runc},
            "Swarm": cluster.swarm,
            "Warnings": list(cluster.warnings) or None,
            "NGoroutines": len(asyncio.all_tasks()),
            "NFd": len(os.listdir("/proc/self/fd")),
        }
        bridged = _NO_BRIDGE_FILTER if call.version < (1, 50) else {}
        return call.json(_UNCHANGING | bridged | facts)

    async def disk_usage(self, call: Call) -> web.StreamResponse:
        wanted = set(call.texts("type")) or _KINDS
        if unknown := wanted - _KINDS:
            raise InvalidArgument(f"unknown object type: {min(unknown)}", field="type")
        shape: dict[str, Any] = {}
        if "image" in wanted:
            shape["LayersSize"] = sum(image.size for image in self._images.list())
            shape["Images"] = [self._image(image) for image in self._images.list()]
        if "container" in wanted:
            shape["Containers"] = await self._engine.list_containers(
                Filters({}), every=True, size=True
            )
        if "volume" in wanted:
            shape["Volumes"] = await asyncio.to_thread(self._volumes)
        if "build-cache" in wanted:
            shape["BuildCache"] = []
        return call.json(shape)

    def _image(self, image: Image) -> dict[str, Any]:
        users = sum(c.record.image_id == image.id for c in self._engine.registry)
        return {
            "Id": image.id,
            "RepoTags": list(image.repo_tags),
            "RepoDigests": list(image.repo_digests),
            "ParentId": "",
            "Created": unix(image.created),
            "Size": image.size,
            "SharedSize": 0,
            "Labels": dict(image.config.labels or {}),
            "Containers": users,
        }

    def _volumes(self) -> list[dict[str, Any]]:
        return [
            volume.to_wire()
            | {
                "UsageData": {
                    "Size": size_of(Path(volume.mountpoint)),
                    "RefCount": len(self._engine.users_of(volume.name)),
                }
            }
            for volume in self._engine.volumes
        ]

    async def auth(self, call: Call) -> web.StreamResponse:
        del call
        raise Unimplemented(
            "checking a login is not supported: put the credentials into the config.json of the"
            " docker client, which sends them with the next pull"
        )


_NO_BRIDGE_FILTER = {"BridgeNfIptables": True, "BridgeNfIp6tables": True}
"""Old clients warn where these are missing; this host's network does without that filter."""

_UNCHANGING: dict[str, Any] = {
    "Driver": "overlay2",
    "DriverStatus": [["Backing Filesystem", "overlayfs"], ["Supports d_type", "true"]],
    "Plugins": {
        "Volume": ["local"],
        "Network": ["bridge", "host", "ipvlan", "macvlan", "null", "overlay"],
        "Authorization": None,
        "Log": list(DRIVERS),
    },
    "MemoryLimit": True,
    "SwapLimit": True,
    "CpuCfsPeriod": True,
    "CpuCfsQuota": True,
    "CPUShares": True,
    "CPUSet": True,
    "PidsLimit": True,
    "IPv4Forwarding": True,
    "Debug": False,
    "LoggingDriver": "json-file",
    "CgroupDriver": "cgroupfs",
    "NEventsListener": 0,
    "OSType": "linux",
    "IndexServerAddress": "https://index.docker.io/v1/",
    "RegistryConfig": {
        "AllowNondistributableArtifactsCIDRs": None,
        "AllowNondistributableArtifactsHostnames": None,
        "InsecureRegistryCIDRs": ["127.0.0.0/8"],
        "IndexConfigs": {},
        "Mirrors": None,
    },
    "HttpProxy": "",
    "HttpsProxy": "",
    "NoProxy": "",
    "ExperimentalBuild": False,
    "ServerVersion": versions.ENGINE,
    "Runtimes": {"runc": {"path": "runc"}},
    "DefaultRuntime": "runc",
    "LiveRestoreEnabled": True,
    "Isolation": "",
    "InitBinary": "",
    "ContainerdCommit": {"ID": "", "Expected": ""},
    "InitCommit": {"ID": "", "Expected": ""},
    "SecurityOptions": ["name=seccomp,profile=builtin"],
    "CDISpecDirs": None,
}


def _architecture() -> str:
    return _ARCHITECTURES.get(platform.machine(), platform.machine())


def _os_release() -> dict[str, str]:
    try:
        return platform.freedesktop_os_release()
    except OSError:
        return {}


def _operating_system() -> str:
    return _os_release().get("PRETTY_NAME", "Linux")
