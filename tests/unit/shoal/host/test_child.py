"""How long a dead child stays dead."""

from shoal.host.child import restart_pause


def test_the_first_death_is_followed_at_once() -> None:
    assert restart_pause(1) == 0.0


def test_pauses_grow_to_five_seconds_and_stay_there() -> None:
    pauses = [restart_pause(deaths) for deaths in range(2, 40)]
    assert pauses[:4] == [0.1, 0.2, 0.4, 0.8]
    assert pauses == sorted(pauses)
    assert pauses[-1] == 5.0
