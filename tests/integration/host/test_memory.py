"""Giving library pages back to the kernel."""

import subprocess
import sys

_GIVE_BACK = """
import sys
from pathlib import Path
from shoal.host.memory import give_back
from shoal.host.warm import SHARED, warm
def held():
    lines = Path("/proc/self/smaps_rollup").read_text().splitlines()
    sizes = {line.split()[0]: int(line.split()[1]) for line in lines[1:]}
    return sizes["Rss:"] - sizes["Anonymous:"], sizes["Anonymous:"]
import grpc.aio, cryptography.x509, ssl
files, own = held()
give_back()
fewer, same = held()
assert fewer < files / 2, (files, fewer)
assert same >= own, (own, same)
warm(SHARED, ())
import asyncio
from cryptography.hazmat.primitives.asymmetric import ec
ec.generate_private_key(ec.SECP256R1())
ssl.create_default_context()
async def serve():
    server = grpc.aio.server()
    await server.start()
    await server.stop(None)
asyncio.run(serve())
"""


def test_libraries_run_on_after_their_pages_were_given_back() -> None:
    subprocess.run([sys.executable, "-c", _GIVE_BACK], check=True)
