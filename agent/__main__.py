"""The agent's composition root: builds everything, runs it, ends it in order.

`main` is called by the host process after the fork; `python -m agent` runs one alone, for
development. Ending the agent never ends a container.
"""

import argparse
import asyncio
import grp
import os
import platform
import random
import re
import signal
import subprocess
from collections.abc import Sequence
from contextlib import AsyncExitStack
from pathlib import Path

import structlog

from agent.api import app
from agent.api.cluster import Gateway
from agent.api.reading import refuse_changes
from agent.api.system import Host
from agent.config import AgentConfig
from agent.door import Door
from agent.engine.engine import Engine, EngineSettings
from agent.engine.preparing import Ground
from agent.images.store import ImageStore
from agent.network.container_names import ContainerNames
from agent.network.host_network import HostNetwork
from agent.network.naming import ContainerNaming, Keeping
from agent.nodes import Nodes
from agent.places import HostPlaces
from agent.runtime.oci import cgroups
from agent.runtime.oci.capabilities import of_mask
from agent.runtime.oci.runtime import OciRuntime, OciSettings
from agent.swarm import HostCluster
from agent.volumes import Volumes
from shoal.common import log as logging
from shoal.common.clock import SystemClock
from shoal.common.config import HostConfig, load_config
from shoal.common.engine_http.server import EngineServer
from shoal.common.entropy import new_hex_id
from shoal.common.host_client import HostControl
from shoal.model.resources import generic_of

log = structlog.get_logger(__name__)

_NO_CONTROL = -1
_END_SECONDS = 8.0
_RECURSIVE_READ_ONLY = (5, 12)
_INITS = ("/usr/bin/tini-static", "/usr/sbin/docker-init", "/usr/bin/docker-init")


def main(config: HostConfig, control_fd: int) -> None:
    """Run until SIGTERM or SIGINT. `control_fd` speaks to the host process, -1: none."""
    logging.set_up("agent")
    with asyncio.Runner() as runner:
        runner.run(_run(AgentConfig(host=config), control_fd))


async def _run(config: AgentConfig, control_fd: int) -> None:
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    async with AsyncExitStack() as stack:
        await _serve(config, control_fd, stack)
        log.info("agent is ready", socket=str(config.socket))
        await stop.wait()
        log.info("agent ends; containers run on")
        loop.call_later(_END_SECONDS, os._exit, 1)  # bounded: a stuck stage ends with us


async def _serve(config: AgentConfig, control_fd: int, stack: AsyncExitStack) -> None:
    """Start every part, what others stand on first; the stack ends them in reverse."""
    clock = SystemClock()
    hierarchies = cgroups.detect()
    images = ImageStore(config.images, clock)
    await images.open()
    host_control = HostControl(control_fd) if control_fd >= 0 else None
    left = await host_control.take_descriptors() if host_control is not None else {}
    names = ContainerNames(Keeping(host_control), left, random.SystemRandom())
    stack.push_async_callback(names.stop)
    naming = ContainerNaming(names)
    network = HostNetwork(
        prefix=config.link_prefix, local_subnet=config.subnet, naming=naming, clock=clock
    )
    await network.start()
    stack.push_async_callback(network.stop)
    runtime = await stack.enter_async_context(
        OciRuntime(
            OciSettings(root=config.run / "oci", cgroup_parent=config.cgroup_parent), clock
        )
    )
    settings = EngineSettings(
        directory=config.containers,
        bundles=config.run / "containers",
        networks=config.networks,
        instance=config.host.instance,
        ground=_ground(config, hierarchies.v2),
    )
    volumes = Volumes(config.volumes, clock)
    engine = await stack.enter_async_context(
        Engine(settings, runtime, images, network, volumes, clock)
    )
    nodes = Nodes(config, engine, images, network, clock)
    membership = HostCluster(config.host, host_control, nodes.make, clock, nodes.chance)
    places = HostPlaces(membership, lambda: network.network_names)
    engine.places.names, engine.places.cluster = naming, places
    engine.networks.in_cluster = lambda: bool(membership.section()["NodeID"])
    engine.networks.told = membership.told
    await membership.restore()
    await engine.adopt()
    await names.settle()
    await images.collect()
    background = await stack.enter_async_context(asyncio.TaskGroup())
    gateway = Gateway(config.manager_socket, membership)
    subnet = (config.local_subnet, config.gateway)
    host = _host(config, hierarchies.v2, clock)
    router = app.build(engine, images, gateway, host, subnet, clock)
    server = await stack.enter_async_context(EngineServer(router))
    for name, work in (
        ("network", network.run()),
        ("names", naming.run()),
        ("membership", membership.run()),
        ("places", places.run(engine.places)),
        ("door for managers", Door(membership, server, config.host).run()),
    ):
        task = background.create_task(work, name=name)
        stack.callback(task.cancel)
    await _open(server, config)


async def _open(server: EngineServer, config: AgentConfig) -> None:
    """Listen on both sockets of this host, the whole one last: its being there means ready."""
    await server.serve_unix(
        config.reading_socket, group=_group("shoal-read"), guard=refuse_changes
    )
    await server.serve_unix(config.socket, group=_group("shoal"))


def _ground(config: AgentConfig, v2: bool) -> Ground:
    return Ground(
        cgroup_parent=config.cgroup_parent,
        cgroup_v2=v2,
        init=_init(),
        capabilities=_capabilities(),
        recursive_read_only=_kernel() >= _RECURSIVE_READ_ONLY,
    )


def _init() -> str:
    return next((path for path in _INITS if Path(path).exists()), "")


def _capabilities() -> tuple[str, ...]:
    """What this host can give: the bounding set of this process."""
    lines = Path("/proc/self/status").read_text().splitlines()
    mask = next(line.split()[1] for line in lines if line.startswith("CapBnd:"))
    return of_mask(int(mask, 16))


def _kernel() -> tuple[int, int]:
    major, minor = platform.release().split(".")[:2]
    return int(major), int(re.sub(r"\D.*", "", minor))


def _group(name: str) -> int:
    """The group that may use a socket, where the host has it."""
    try:
        return grp.getgrnam(name).gr_gid
    except KeyError:
        return -1


def _host(config: AgentConfig, v2: bool, clock: SystemClock) -> Host:
    return Host(
        identity=_identity(config.state / "engine-id"),
        hostname=config.host.hostname,
        labels=config.host.labels,
        generic_resources=generic_of(config.host.generic_resources),
        root=str(config.state),
        cgroup_v2=v2,
        runc=_version("runc"),
        conmon=_version("conmon"),
        started_at=clock.now(),
    )


def _identity(file: Path) -> str:
    """The host's own id, made once."""
    if not file.exists():
        file.write_text(new_hex_id())
    return file.read_text()


def _version(program: str) -> str:
    try:
        done = subprocess.run(
            [program, "--version"], capture_output=True, text=True, check=False, timeout=5
        )
    except (OSError, subprocess.TimeoutExpired):
        return ""
    first = done.stdout.partition("\n")[0].split()
    return first[2] if len(first) > 2 else ""


def _alone(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m agent")
    for flag in ("--state", "--run", "--address", "--hostname", "--instance"):
        parser.add_argument(flag)
    main(load_config(None, vars(parser.parse_args(arguments))), _NO_CONTROL)


if __name__ == "__main__":
    _alone()
