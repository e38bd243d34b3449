"""Many histories, each with invariants checked at every step and a rest at the end."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.simulation.world import simulate

ROOT = Path(__file__).parents[2]


def test_no_invariant_is_violated(seed: int) -> None:
    history = simulate(seed)
    assert not history.violations, history.report()


@pytest.mark.parametrize("seeds", [(3, 4), (13, 22), (31, 45)])
def test_a_history_is_the_same_in_every_process(seeds: tuple[int, ...]) -> None:
    """Nothing may hang on the order of a set, which the hash seed decides."""
    traces = [_traces(seeds, hash_seed) for hash_seed in ("1", "77")]
    assert len(traces[0]) == len(seeds)
    assert traces[0] == traces[1]


def _traces(seeds: tuple[int, ...], hash_seed: str) -> list[str]:
    done = subprocess.run(
        [sys.executable, "-m", "tests.simulation", *map(str, seeds)],
        cwd=ROOT,
        env={**os.environ, "PYTHONHASHSEED": hash_seed},
        capture_output=True,
        text=True,
        check=True,
        timeout=100,
    )
    return [line for line in done.stdout.splitlines() if line.startswith("trace ")]
