"""DNS queries without a pause: `asker.py SECONDS FLOWS NAME...` in a container's namespace.

Needs nothing but Python. Each flow is a socket that asks the next name as soon as it was
answered. Prints one JSON object: the queries that were answered with an address, those that
were not, and their median and 99th percentile in microseconds.
"""

import itertools
import json
import selectors
import socket
import sys
import time

SERVER = ("127.0.0.11", 53)
LATE = 1.0


def query(number: int, name: str) -> bytes:
    """For the IPv4 address of a name."""
    labels = b"".join(bytes([len(each)]) + each.encode() for each in name.split("."))
    head = number.to_bytes(2, "big") + b"\1\0\0\1\0\0\0\0\0\0"
    return head + labels + b"\0\0\1\0\1"


def is_answer(asked: bytes, answer: bytes) -> bool:
    """Whether it is that query's, without an error and with a record."""
    return answer[:2] == asked[:2] and answer[3] & 15 == 0 and answer[6:8] != b"\0\0"


def main(seconds: float, flows: int, names: list[str]) -> None:
    """Ask that long."""
    ready = selectors.DefaultSelector()
    wanted = itertools.cycle(names)
    numbers = itertools.count()
    waiting: dict[socket.socket, tuple[float, bytes]] = {}
    times, failed = [], 0

    def ask(flow: socket.socket) -> None:
        asked = query(next(numbers) % 65536, next(wanted))
        waiting[flow] = (time.perf_counter(), asked)
        flow.send(asked)

    for _ in range(flows):
        flow = socket.socket(type=socket.SOCK_DGRAM)
        flow.connect(SERVER)
        ready.register(flow, selectors.EVENT_READ, flow)
        ask(flow)
    end = time.perf_counter() + seconds
    while (now := time.perf_counter()) < end:
        for key, _ in ready.select(LATE):
            answer = key.data.recv(512)
            began, asked = waiting[key.data]
            if is_answer(asked, answer):
                times.append(time.perf_counter() - began)
            else:
                failed += 1
            ask(key.data)
        for flow in [each for each, (began, _) in waiting.items() if now - began > LATE]:
            failed += 1
            ask(flow)
    times.sort()
    told = {
        "answered": len(times),
        "failed": failed,
        "p50_us": round(times[len(times) // 2] * 1e6, 1),
        "p99_us": round(times[int(len(times) * 0.99)] * 1e6, 1),
    }
    print(json.dumps(told))


main(float(sys.argv[1]), int(sys.argv[2]), sys.argv[3:])
