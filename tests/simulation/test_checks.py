"""The checks themselves: a fault in a decider is objected to, and soon."""

import pytest

from tests.simulation import plants
from tests.simulation.plants import Decide, planted
from tests.simulation.world import simulate

SOON = 20
"""Seeds within which a fault must have been seen."""


@pytest.mark.parametrize(
    ("row", "fault", "sentence"),
    [
        ("update", plants.update_all_at_once, "down for an update that allows"),
        ("schedule", plants.schedule_on_taken_ports, "have port"),
        ("start", plants.start_without_delay, "before its delay"),
        ("start", plants.start_beside, "was started on"),
        ("reaper", plants.reap_what_lives, "was deleted while"),
        ("replicated", plants.one_too_many, "slots for"),
        ("enforcer", plants.stop_what_fits, "for no reason"),
        ("schedule", plants.wait_in_silence, "does not say why"),
    ],
)
def test_a_fault_in_a_decider_is_objected_to(row: str, fault: Decide, sentence: str) -> None:
    table = planted(row, fault)
    seen: list[str] = []
    for seed in range(SOON):
        violations = simulate(seed, table).violations
        if any(sentence in one for one in violations):
            return
        seen.extend(violations)
    raise AssertionError(f"nothing said {sentence!r} in {SOON} seeds, but: {seen[:5]}")
