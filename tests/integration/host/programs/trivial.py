"""A child that does what the host's own client can do, on orders from a socket in `run`.

Agent and manager alike in these tests: it serves one JSON object a line and replies likewise.
"""

import asyncio
import json
import os
from pathlib import Path
from typing import Any

from shoal.common.config import HostConfig
from shoal.common.host_client import HostControl
from shoal.model.errors import ClusterError


def main(config: HostConfig, control_fd: int) -> int:
    comm = Path("/proc/self/comm").read_text().strip().removeprefix("shoal-")
    return asyncio.run(_serve(config, comm, HostControl(control_fd)))


async def _serve(config: HostConfig, name: str, control: HostControl) -> int:
    done: asyncio.Future[int] = asyncio.get_running_loop().create_future()

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        order = json.loads(await reader.readline())
        if "exit" in order:
            done.set_result(order["exit"])
        writer.write(json.dumps(await _do(control, order)).encode() + b"\n")
        await writer.drain()
        writer.close()

    path = Path(config.run) / f"{name}.sock"
    path.unlink(missing_ok=True)
    server = await asyncio.start_unix_server(answer, path)
    async with server:
        return await done


async def _do(control: HostControl, order: dict[str, Any]) -> dict[str, Any]:
    try:
        match order:
            case {"start_etcd": argv}:
                reply = await control.start_etcd(argv, order.get("env"), order.get("once", ()))
            case {"stop_etcd": purge}:
                reply = await control.stop_etcd(purge_state=purge)
            case {"start_manager": _}:
                reply = await control.start_manager()
            case {"stop_manager": _}:
                reply = await control.stop_manager()
            case {"keep": name}:
                reader, writer = os.pipe()
                os.write(writer, str(name).encode())
                os.close(writer)
                await control.keep_descriptor(name, reader)
                os.close(reader)
                return {}
            case {"take": _}:
                taken = await control.take_descriptors()
                return {name: os.read(fd, 100).decode() for name, fd in taken.items()}
            case {"drop": name}:
                await control.drop_descriptor(name)
                return {}
            case _:
                reply = await control.status()
    except ClusterError as error:
        return {"error": str(error)}
    pids = [reply.pids.agent, reply.pids.manager, reply.pids.etcd]
    return {"pids": pids, "argv": reply.etcd_argv}
