"""The checks themselves: a fault in a decider is objected to, and soon."""

from collections.abc import Callable

import pytest

from tests.simulation import plants
from tests.simulation.parts import Parts
from tests.simulation.plants import Decide, planted
from tests.simulation.world import History, simulate

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
        ("jobs", plants.too_many_at_once, "at once"),
        ("jobs", plants.too_many_completions, "completions of"),
    ],
)
def test_a_fault_in_a_decider_is_objected_to(row: str, fault: Decide, sentence: str) -> None:
    table = planted(row, fault)
    _is_objected_to(sentence, lambda seed: simulate(seed, table))


@pytest.mark.parametrize(
    ("parts", "sentence"),
    [
        (Parts(sessions=plants.hasty_sessions), "and it has applied"),
        (Parts(draining=plants.DrainsAtOnce), "still leads to it"),
        (Parts(dispatcher=plants.TellsAllSecrets), "that no task there needs"),
        (Parts(worker=plants.KeepsItsNetwork), "has a part in the network"),
    ],
)
def test_a_fault_in_a_part_is_objected_to(parts: Parts, sentence: str) -> None:
    _is_objected_to(sentence, lambda seed: simulate(seed, parts=parts))


def _is_objected_to(sentence: str, history: Callable[[int], History]) -> None:
    seen: list[str] = []
    for seed in range(SOON):
        violations = history(seed).violations
        if any(sentence in one for one in violations):
            return
        seen.extend(violations)
    raise AssertionError(f"nothing said {sentence!r} in {SOON} seeds, but: {seen[:5]}")


@pytest.mark.parametrize("row", ["replicated", "update", "allocate"])
def test_a_decider_that_raises_for_one_service_keeps_no_other_waiting(row: str) -> None:
    """All that does not come to rest is of that service, and it does not end the run."""
    raised: list[str] = []
    for seed in range(4):
        history = simulate(seed, plants.raising(row, raised))
        for violation in history.violations:
            assert violation.startswith("no rest: "), history.report()
            told = violation.replace("; it is tried again", "")  # the sentence of the failure
            said = told.removeprefix("no rest: ").split("; ")
            foreign = [one for one in said if plants.POISONED not in one]
            assert not foreign, foreign
    assert raised, "no history had the service"
