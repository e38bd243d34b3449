"""What the doctor says of the way to other hosts."""

import os

import pytest

from shoal.cli.doctor import echo, underlay
from shoal.cli.doctor.finding import Level

PEER = "192.0.2.2"


def test_full_packets_pass_or_not() -> None:
    assert underlay.judge_way(PEER, 1500, answers=True, full=True).level is Level.OK
    lost = underlay.judge_way(PEER, 1500, answers=True, full=False)
    assert lost.level is Level.PROBLEM
    assert "1500 bytes do not pass" in lost.says
    silent = underlay.judge_way(PEER, 1500, answers=False, full=False)
    assert silent.level is Level.WARNING


def test_a_tunnel_that_never_answers_is_told_from_a_host_that_is_off() -> None:
    assert underlay.judge_tunnel(PEER, 4789, through=True, plainly=True).level is Level.OK
    closed = underlay.judge_tunnel(PEER, 4789, through=False, plainly=True)
    assert closed.level is Level.PROBLEM
    assert "192.0.2.2 answers, but not through VXLAN (UDP port 4789)" in closed.says
    off = underlay.judge_tunnel(PEER, 4789, through=False, plainly=False)
    assert off.level is Level.WARNING


def test_who_never_answered_a_handshake_is_named() -> None:
    endpoints = {"key1=": "192.0.2.2:51820", "key2=": "192.0.2.3:51821", "key3=": "(none)"}
    last = {"key1=": "1767225600", "key2=": "0"}
    said = list(underlay.judge_handshakes(endpoints, last))
    assert [each.level for each in said] == [Level.OK, Level.PROBLEM]
    assert said[1].says.startswith("192.0.2.3 has never answered")
    assert "UDP port 51821" in said[1].helps


@pytest.mark.root
@pytest.mark.skipif(os.geteuid() != 0, reason="needs root")
def test_an_echo_comes_back_from_here_and_from_nowhere_else() -> None:
    assert echo.answers("127.0.0.1", 28)
    assert echo.answers("127.0.0.1", 1500)
    assert not echo.answers("127.0.0.1", 100_000)  # no packet is that long
    assert not echo.answers("240.0.0.1", 28)
