"""How long a container waits before its next start."""

from datetime import timedelta

from agent.engine import restart


def delays(count: int) -> list[float]:
    found: list[float] = []
    last: timedelta | None = None
    for _ in range(count):
        last = restart.next_attempt(last)
        found.append(last.total_seconds())
    return found


def test_what_is_not_to_be_had_now_is_tried_again_within_seconds() -> None:
    assert delays(8) == [0.1, 0.2, 0.4, 0.8, 1.6, 3.2, 5.0, 5.0]


def test_failures_in_a_row_wait_longer_and_a_steady_run_forgets_them() -> None:
    short, steady = timedelta(seconds=1), restart.STEADY
    assert restart.next_delay(None, short) == restart.FIRST
    assert restart.next_delay(restart.FIRST, short) == 2 * restart.FIRST
    assert restart.next_delay(restart.CAP, short) == restart.CAP
    assert restart.next_delay(restart.CAP, steady) == restart.FIRST
