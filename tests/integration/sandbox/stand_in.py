"""A stand-in for `shoal host`: the same flags, pids.json and socket, no containers.

Its "agent" answers `/_ping`, and starts one process that outlives it in a container's control
group, as conmon does. Daemons die with their parent, as the real ones do.
"""

import argparse
import ctypes
import http.server
import json
import os
import signal
import socket
import socketserver
import sys
import time
from pathlib import Path

from typing_extensions import override

from shoal.cli.sandbox import cgroups


class Ping(http.server.BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        self.send_response(200)
        self.send_header("Content-Length", "2")
        self.end_headers()
        self.wfile.write(b"OK")

    @override
    def log_message(self, *_: object) -> None:
        return

    @override
    def address_string(self) -> str:
        return "unix"


def forked(work: object) -> int:
    pid = os.fork()
    if pid == 0:
        ctypes.CDLL(None).prctl(1, signal.SIGKILL)
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        work()  # type: ignore[operator]
        os._exit(0)
    return pid


def agent(args: argparse.Namespace) -> None:
    container = os.fork()
    if container == 0:
        os.setsid()
        cgroups.join(f"shoal/{args.instance}/box", os.getpid())
        time.sleep(3600)
    (args.run / "box.pid").write_text(str(container))
    path = args.run / "docker.sock"
    path.unlink(missing_ok=True)
    (args.run / "hostname").write_text(socket.gethostname())
    socketserver.ThreadingUnixStreamServer(str(path), Ping).serve_forever()


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("verb", choices=["host"])
    for flag in ("--state", "--run"):
        parser.add_argument(flag, type=Path, required=True)
    for flag in ("--address", "--hostname", "--instance"):
        parser.add_argument(flag, required=True)
    args = parser.parse_args()
    if (args.state.parent.parent / "refuse").exists():
        sys.exit("the stand-in was told to refuse")
    pids = {
        "host": os.getpid(),
        "agent": forked(lambda: agent(args)),
        "manager": forked(signal.pause),
        "etcd": forked(signal.pause),
    }
    (args.run / "pids.json").write_text(json.dumps(pids))
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    while True:
        signal.pause()


main()
