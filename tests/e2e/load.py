"""Requests without a pause, and how many failed: a program, and the tests' hold on it.

`load.py ADDRESS PORT` asks until its standard input ends, with some threads that open a
connection a request and some that keep theirs for twenty, then prints one JSON object. It needs
nothing but Python, so that it runs inside any network namespace.
"""

import http.client
import json
import subprocess
import sys
import threading
import time
from collections import Counter
from types import TracebackType
from typing import Any, Self

SHORT, LONG, PAUSE, A_REQUEST = 3, 1, 0.01, 5.0
KEPT = 20


class Load:
    """Load on an address for as long as a `with` block lasts.

    Args:
        pid: from the network namespace of this process; 0 is this machine's own.
    """

    def __init__(self, address: str, port: int, pid: int = 0) -> None:
        self._words = [sys.executable, __file__, address, str(port)]
        if pid:
            self._words = ["nsenter", f"--net=/proc/{pid}/ns/net", *self._words]
        self.answered = 0
        self.failures: dict[str, int] = {}

    def __enter__(self) -> Self:
        self._running = subprocess.Popen(
            self._words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        assert self._running.stdout is not None
        assert self._running.stdout.readline() == "answered\n"
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        told, _ = self._running.communicate(timeout=30)
        found: dict[str, Any] = json.loads(told)
        self.answered, self.failures = found["answered"], found["failures"]


def _ask(address: str, port: int, kept: int, end: threading.Event, found: Counter[str]) -> None:
    while not end.is_set():
        line = http.client.HTTPConnection(address, port, timeout=A_REQUEST)
        try:
            for _ in range(kept):
                line.request("GET", "/", headers={"Connection": "keep-alive"})
                answer = line.getresponse()
                text = answer.read()
                found["answered" if answer.status == 200 and text else "empty"] += 1
                if answer.will_close or end.is_set():
                    break
                time.sleep(PAUSE)
        except (OSError, http.client.HTTPException) as error:
            found[f"{type(error).__name__}: {error}"] += 1
        finally:
            line.close()
        time.sleep(PAUSE)


def main(address: str, port: int) -> None:
    """Ask until standard input ends; says `answered` after the first answers."""
    end = threading.Event()
    counts = [Counter[str]() for _ in range(SHORT + LONG)]
    threads = [
        threading.Thread(target=_ask, args=(address, port, 1 if n < SHORT else KEPT, end, each))
        for n, each in enumerate(counts)
    ]
    for thread in threads:
        thread.start()
    deadline = time.monotonic() + 10
    while not all(counts) and time.monotonic() < deadline:
        time.sleep(0.01)
    print("answered", flush=True)  # noqa: T201 - the tests read it
    sys.stdin.read()
    end.set()
    for thread in threads:
        thread.join()
    total = sum(counts, Counter[str]())
    answered = total.pop("answered", 0)
    print(json.dumps({"answered": answered, "failures": total}))  # noqa: T201


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]))
