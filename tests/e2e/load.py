"""Requests without a pause, and how many failed: a program, and the tests' hold on it.

`load.py ADDRESS PORT FLOWS` asks until its standard input ends, with some threads that open a
connection a request and some that keep theirs for twenty, then prints one JSON object. Each
line of its input is a number: it says when so many more were answered. It needs nothing but
Python, so that it runs inside any network namespace. FLOWS is the file in which the
kernel tells of that namespace's flows that leads to the backends: who a request that failed was
for.
"""

import http.client
import json
import re
import socket
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, NamedTuple, Self

from typing_extensions import override

SHORT, LONG, PAUSE, A_REQUEST = 3, 1, 0.01, 5.0
KEPT = 20
PATIENCE = 20.0
UNKNOWN = "?"


class Failure(NamedTuple):
    """A request that failed: when it was begun (`time.monotonic`), how, and who it was for."""

    begun: float
    error: str
    backend: str


class Load:
    """Load on an address for as long as a `with` block lasts.

    Args:
        pid: from the network namespace of this process; 0 is this machine's own.
        router: the process in whose namespace the backends are chosen, if that is another.
    """

    def __init__(self, address: str, port: int, pid: int = 0, router: int = 0) -> None:
        flows = f"/proc/{router or pid or 'self'}/net/nf_conntrack"
        self._words = [sys.executable, __file__, address, str(port), flows]
        if pid:
            self._words = ["nsenter", f"--net=/proc/{pid}/ns/net", *self._words]
        self.answered = 0
        self.lost: list[Failure] = []

    @property
    def failures(self) -> dict[str, int]:
        """What went wrong, and how often."""
        return dict(Counter(each.error for each in self.lost))

    def __enter__(self) -> Self:
        self._running = subprocess.Popen(
            self._words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        self._hear()
        return self

    def await_answers(self, count: int) -> None:
        """Return once so many more requests were answered."""
        assert self._running.stdin is not None
        self._running.stdin.write(f"{count}\n")
        self._running.stdin.flush()
        self._hear()

    def _hear(self) -> None:
        assert self._running.stdout is not None
        assert self._running.stdout.readline() == "answered\n"

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        told, _ = self._running.communicate(timeout=30)
        found: dict[str, Any] = json.loads(told)
        self.answered = found["answered"]
        self.lost = [Failure(*each) for each in found["lost"]]


class _Line(http.client.HTTPConnection):
    """A connection whose own port is known before anything is sent."""

    source = 0

    @override
    def connect(self) -> None:
        self.sock = socket.socket()
        self.sock.settimeout(A_REQUEST)
        self.sock.bind(("", 0))
        self.source = self.sock.getsockname()[1]
        self.sock.connect((self.host, self.port))


class _Client:
    """One thread's requests, so many a connection."""

    def __init__(self, address: str, port: int, kept: int, flows: str) -> None:
        self._address = address
        self._port = port
        self._kept = kept
        self._flows = Path(flows)
        self.answered = 0
        self.lost: list[Failure] = []

    def ask(self, end: threading.Event) -> None:
        """Ask until the end."""
        while not end.is_set():
            line = _Line(self._address, self._port)
            for _ in range(self._kept):
                kept = self._request(line)
                time.sleep(PAUSE)
                if not kept or end.is_set():
                    break
            line.close()

    def _request(self, line: _Line) -> bool:
        """Whether the connection may be kept."""
        begun = time.monotonic()
        try:
            line.request("GET", "/", headers={"Connection": "keep-alive"})
            answer = line.getresponse()
            good, kept = answer.status == 200 and answer.read() != b"", not answer.will_close
            why = "" if good else f"empty, or status {answer.status}"
        except (OSError, http.client.HTTPException) as error:
            good, kept, why = False, False, f"{type(error).__name__}: {error}"
        if good:
            self.answered += 1
        else:
            self.lost.append(Failure(begun, why, self._backend(line.source)))
        return kept

    def _backend(self, source: int) -> str:
        """Who the kernel sent the flow from that port to."""
        wanted = f"dst={self._address} sport={source} dport={self._port} "
        for flow in self._flows.read_text().splitlines():
            if wanted in flow:
                return str(re.findall(r"src=(\S+)", flow)[1])
        return UNKNOWN


def _answered(clients: Sequence[_Client]) -> int:
    return sum(client.answered for client in clients)


def _tell(holds: Callable[[], bool]) -> None:
    """Say that it holds, or that it does not even after a while."""
    deadline = time.monotonic() + PATIENCE
    while not holds() and time.monotonic() < deadline:
        time.sleep(0.01)
    print("answered" if holds() else "not answered", flush=True)  # noqa: T201 - tests read it


def main(address: str, port: int, flows: str) -> None:
    """Ask until standard input ends; says `answered` after the first answers and when asked."""
    end = threading.Event()
    clients = [
        _Client(address, port, 1 if n < SHORT else KEPT, flows) for n in range(SHORT + LONG)
    ]
    threads = [threading.Thread(target=client.ask, args=(end,)) for client in clients]
    for thread in threads:
        thread.start()
    _tell(lambda: all(client.answered or client.lost for client in clients))
    for line in sys.stdin:
        wanted = _answered(clients) + int(line)
        _tell(lambda wanted=wanted: _answered(clients) >= wanted)  # type: ignore[misc]
    end.set()
    for thread in threads:
        thread.join()
    answered = _answered(clients)
    lost = [each for client in clients for each in client.lost]
    print(json.dumps({"answered": answered, "lost": lost}))  # noqa: T201


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]), sys.argv[3])
