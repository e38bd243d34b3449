"""An agent that does nothing but names for one container; its namespace is in the environment.

Started by the host process. Without left sockets it opens them; it says how many were left.
"""

import asyncio
import os
import random
from pathlib import Path

from agent.network.container_names import ContainerNames
from agent.network.views import local_view
from agent.network.zones import Host
from shoal.common.config import HostConfig
from shoal.common.host_client import HostControl


def main(config: HostConfig, control_fd: int) -> int:
    return asyncio.run(_serve(config, HostControl(control_fd)))


async def _serve(config: HostConfig, control: HostControl) -> int:
    left = await control.take_descriptors()
    names = ContainerNames(control, left, random.SystemRandom(), tuple)
    host = Host(names=("web",), addresses=("10.97.0.2",))
    await names.change("local", {"mine": local_view("mine", [host])})
    descriptor = os.open(os.environ["SHOAL_TEST_NAMESPACE"], os.O_RDONLY | os.O_CLOEXEC)
    await names.open("c", descriptor, ["mine"])
    os.close(descriptor)
    await names.settle()
    (Path(config.run) / "left").write_text(str(len(left)))
    await names.run()
    return 0
