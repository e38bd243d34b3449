"""A 32-byte ping-pong over TCP: `ping_pong.py serve PORT` or `ask ADDRESS PORT`.

Needs nothing but Python, so that it starts quickly in any namespace. `ask` prints the median
and the 99th percentile of the round trips in microseconds.
"""

import json
import socket
import sys
import time

SIZE, WARM, ROUNDS = 32, 500, 5000


def serve(port: int) -> None:
    """Give back what comes, one connection after another, until killed."""
    with socket.create_server(("0.0.0.0", port)) as server:  # noqa: S104 - a namespace of its own
        while True:
            line, _ = server.accept()
            with line:
                line.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                while data := line.recv(SIZE):
                    line.sendall(data)


def ask(address: str, port: int) -> None:
    """Time the round trips."""
    data, times = b"x" * SIZE, []
    with socket.create_connection((address, port), timeout=5) as line:
        line.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        for _ in range(WARM + ROUNDS):
            began = time.perf_counter_ns()
            line.sendall(data)
            line.recv(SIZE)
            times.append(time.perf_counter_ns() - began)
    times = sorted(times[WARM:])
    print(json.dumps([times[len(times) // 2] / 1000, times[int(len(times) * 0.99)] / 1000]))


if sys.argv[1] == "serve":
    serve(int(sys.argv[2]))
else:
    ask(sys.argv[2], int(sys.argv[3]))
