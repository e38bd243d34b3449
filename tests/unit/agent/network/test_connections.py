"""Which of a container's connections are waited for; the text is the kernel's."""

from agent.network.connections import inbound

HEAD = "  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid\n"
LISTENS = "   0: 00000000:0050 00000000:0000 0A 00000000:00000000 00:00000000 00000000     0\n"
SERVED = "   1: 0700000A:0050 0300000A:D431 01 00000000:00000000 02:000A 00000000     0\n"
BEGUN = "   2: 0700000A:0050 0300000A:D432 03 00000000:00000000 02:000A 00000000     0\n"
OVER = "   3: 0700000A:0050 0300000A:D433 06 00000000:00000000 02:000A 00000000     0\n"
CLIENT = "   4: 0700000A:D431 0400000A:0050 01 00000000:00000000 02:000A 00000000     0\n"
PROBE = "   5: 0100007F:0050 0100007F:D435 01 00000000:00000000 02:000A 00000000     0\n"
HEAD6 = "  sl  local_address                         remote_address                        st\n"
LISTENS6 = f"   0: {'0' * 32}:01BB {'0' * 32}:0000 0A 00000000:00000000\n"
SERVED6 = (
    "   1: 0000000000000000FFFF00000700000A:01BB 0000000000000000FFFF00000300000A:D431 01"
    " 00000000:00000000\n"
)
PROBE6 = f"   2: {'0' * 24}01000000:01BB {'0' * 24}01000000:D435 01 00000000:00000000\n"


def test_those_to_a_listening_port_count_whole_or_begun() -> None:
    assert inbound([HEAD + LISTENS + SERVED + BEGUN, HEAD6 + LISTENS6 + SERVED6]) == 3


def test_its_own_and_those_that_are_over_do_not() -> None:
    assert inbound([HEAD + LISTENS + OVER + CLIENT + PROBE, HEAD6 + LISTENS6 + PROBE6]) == 0


def test_nothing_is_waited_for_where_nothing_listens() -> None:
    assert inbound([HEAD + SERVED, HEAD6]) == 0
    assert inbound(["", HEAD6]) == 0


def test_a_port_may_be_listened_on_by_the_other_family() -> None:
    """One socket of both families listens in the table of IPv6 only."""
    both = f"   0: {'0' * 32}:0050 {'0' * 32}:0000 0A 00000000:00000000\n"
    assert inbound([HEAD + SERVED, HEAD6 + both]) == 1
