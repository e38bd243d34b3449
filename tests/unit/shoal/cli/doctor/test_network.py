"""What the doctor says of others' firewalls and of the way to other hosts."""

import json
import os
import subprocess
from collections.abc import Mapping
from typing import Any

import pytest

from shoal.cli.doctor import network
from shoal.cli.doctor.finding import Level
from shoal.common.config import HostConfig


def listed(rules: str) -> list[Mapping[str, Any]]:
    """As the kernel lists rules that were made in a namespace of their own."""
    if os.geteuid() != 0:
        pytest.skip("needs root")
    done = subprocess.run(
        ["unshare", "--net", "sh", "-ec", "nft -f - && nft -j list ruleset"],
        input=rules.replace("}", "}\n"),
        capture_output=True,
        text=True,
        check=True,
    )
    found: list[Mapping[str, Any]] = json.loads(done.stdout)["nftables"]
    return found


DROPPING = (
    "table inet guard { chain fw { type filter hook forward priority 0; policy drop; %s } }"
)


@pytest.mark.root
@pytest.mark.parametrize(
    "rules",
    [
        DROPPING % "",
        DROPPING % "tcp dport 22 accept;",
        DROPPING % 'iifname "shoal-*" drop;',
        "table ip guard { chain fw { type filter hook forward priority 0; counter reject; } }",
    ],
)
def test_a_chain_that_drops_what_is_forwarded_is_named(rules: str) -> None:
    (found,) = network.judge_rules(listed(rules), "shoal", 4789)
    assert found.level is Level.PROBLEM
    assert "guard fw` drops forwarded" in found.says
    assert "guard fw iifname" in found.helps


@pytest.mark.root
@pytest.mark.parametrize(
    "rules",
    [
        "",
        DROPPING % 'iifname "shoal-*" accept; oifname "shoal-*" accept;',
        "table inet shoal_shoal { chain f {type filter hook forward priority 0; policy drop;}}",
        "table ip nat { chain post { type nat hook postrouting priority 100; } }",
        """table ip filter {
          chain DOCKER-USER { iifname "shoal-*" accept; }
          chain FORWARD { type filter hook forward priority 0; policy drop; jump DOCKER-USER; }
        }""",
    ],
)
def test_a_chain_that_lets_ours_pass_is_none_to_name(rules: str) -> None:
    assert list(network.judge_rules(listed(rules), "shoal", 4789)) == []


@pytest.mark.root
def test_an_input_chain_that_drops_must_let_vxlan_in() -> None:
    chain = "table inet g { chain i { type filter hook input priority 0; policy drop; %s } }"
    (found,) = network.judge_rules(listed(chain % "tcp dport 22 accept;"), "shoal", 4789)
    assert found.level is Level.WARNING
    assert "UDP port 4789" in found.says
    passing = listed(chain % "udp dport 4789 accept;")
    assert list(network.judge_rules(passing, "shoal", 4789)) == []


def test_legacy_iptables() -> None:
    (found,) = network.judge_legacy("iptables-legacy", "-P FORWARD DROP", "shoal")
    assert "iptables-legacy" in found.says
    marked = "-P FORWARD DROP\n-A DOCKER-USER -m comment --comment shoal_shoal -j ACCEPT"
    assert list(network.judge_legacy("iptables-legacy", marked, "shoal")) == []
    assert list(network.judge_legacy("iptables-legacy", "-P FORWARD ACCEPT", "shoal")) == []


def test_forwarding() -> None:
    assert network.judge_forwarding("IPv4", "1", running=True).level is Level.OK
    assert network.judge_forwarding("IPv4", "0", running=False).level is Level.OK
    assert network.judge_forwarding("IPv4", "0", running=True).level is Level.WARNING
    assert network.judge_forwarding("IPv6", "", running=True).level is Level.WARNING


def test_encryption_needs_the_kernel_or_the_program() -> None:
    assert network.judge_encryption(kernel=True, program=False).level is Level.OK
    assert "wireguard-go" in network.judge_encryption(kernel=False, program=True).says
    assert network.judge_encryption(kernel=False, program=False).level is Level.WARNING


def test_the_legacy_mark_and_links_follow_a_long_instances_name() -> None:
    config = HostConfig(instance="warehouse")
    assert len(config.link_prefix) == 6
    marked = f"-P FORWARD DROP\n-A X -m comment --comment shoal_{config.link_prefix} -j ACCEPT"
    assert list(network.judge_legacy("iptables-legacy", marked, config.link_prefix)) == []
