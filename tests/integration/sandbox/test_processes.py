"""Which processes count as running."""

import subprocess
import sys
from pathlib import Path

from shoal.cli.sandbox.processes import is_alive

LEADER_LEAVES = """
import ctypes, threading, time
threading.Thread(target=lambda: (print("on", flush=True), input())).start()
ctypes.CDLL(None).syscall(60, 0)  # exit of this thread alone
"""


def test_a_process_whose_first_thread_has_ended_runs_while_others_do() -> None:
    """Etcd dies so: its control group is in use until the last of its threads is gone."""
    with subprocess.Popen(
        [sys.executable, "-c", LEADER_LEAVES],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stdout is not None
        process.stdout.readline()
        while "\nState:\tZ" not in Path(f"/proc/{process.pid}/status").read_text():
            assert process.poll() is None
        assert is_alive(process.pid)
        process.kill()
    assert not is_alive(process.pid)
