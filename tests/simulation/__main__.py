"""`python -m tests.simulation SEED...`: run seeds and print their traces, with the logs."""

import hashlib
import sys

from tests.simulation.quiet import quiet
from tests.simulation.world import simulate


def main() -> None:
    quiet()
    for seed in (int(text) for text in sys.argv[1:]):
        history = simulate(seed)
        print("\n".join(history.trace))
        print(f"seed {seed}:", *(history.violations or ("no violation",)), sep="\n  ")
        print("trace", hashlib.sha256("\n".join(history.trace).encode()).hexdigest())


main()
