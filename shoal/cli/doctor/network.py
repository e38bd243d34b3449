"""The network of this host: who else drops what is to pass, forwarding, encryption."""

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import msgspec

from shoal.cli.doctor.finding import Finding, Ground, ok, problem, warning

_DROPPING = ("drop", "reject")


class BaseChain(msgspec.Struct, frozen=True):
    """A chain that the kernel leads packets to, which drops what none of its rules accepts."""

    family: str
    table: str
    name: str
    hook: str

    @property
    def called(self) -> str:
        """As `nft` names it."""
        return f"{self.family} {self.table} {self.name}"


def firewalls(ground: Ground) -> Iterable[Finding]:
    """Tables of others that drop what is forwarded: an accept of ours cannot override that."""
    answer = ground.run(("nft", "-j", "list", "ruleset"))
    if answer.status != 0:
        yield warning(f"nftables cannot be listed: {answer.said}", "install nftables")
        return
    objects = json.loads(answer.said).get("nftables", []) if answer.said else []
    found = list(judge_rules(objects, ground.config.link_prefix, ground.config.vxlan_port))
    for program in ("iptables-legacy", "ip6tables-legacy"):
        listed = ground.run((program, "-S"))
        if listed.status == 0:
            found += judge_legacy(program, listed.said, ground.config.link_prefix)
    yield from found or [ok("no other firewall drops packets of containers")]


def judge_rules(
    objects: Sequence[Mapping[str, Any]], instance: str, vxlan_port: int
) -> Iterator[Finding]:
    """What the rules of all tables but ours mean for us; `objects` as `nft -j` lists them."""
    ours = f"shoal_{instance}"
    rules = [each["rule"] for each in objects if "rule" in each]
    for chain in _dropping(objects, ours):
        own = [r for r in rules if _place(r) == (chain.family, chain.table, chain.name)]
        if chain.hook == "forward" and not _lets_pass(chain, own, rules, instance):
            yield problem(
                f"the nftables chain `{chain.called}` drops forwarded packets: containers reach"
                " nothing, and their published ports do not answer from outside",
                _accepting(chain, instance),
            )
        elif chain.hook == "input" and not _mentions(own, vxlan_port):
            yield warning(
                f"the nftables chain `{chain.called}` drops incoming packets, and no rule in it"
                f" names UDP port {vxlan_port}: hosts may not reach each other's containers",
                f"`nft insert rule {chain.called} udp dport {vxlan_port} accept`, and the same"
                " in what makes this table",
            )


def judge_legacy(program: str, listing: str, instance: str) -> Iterator[Finding]:
    """The chain FORWARD of an iptables that nftables does not show."""
    lines = listing.splitlines()
    if "-P FORWARD DROP" not in lines or f"--comment shoal_{instance} " in listing:
        return
    yield problem(
        f"the policy of {program}'s chain FORWARD is DROP: containers reach nothing, and their"
        " published ports do not answer from outside",
        f"`{program} -I FORWARD -i {instance}-+ -j ACCEPT` and the same with `-o`",
    )


def _dropping(objects: Sequence[Mapping[str, Any]], ours: str) -> Iterator[BaseChain]:
    last: dict[tuple[str, str, str], Any] = {}
    for each in objects:
        if "rule" in each:
            last[_place(each["rule"])] = each["rule"]["expr"]
    for each in objects:
        chain = each.get("chain", {})
        if chain.get("type") != "filter" or chain["table"] == ours:
            continue
        if chain["hook"] not in ("forward", "input"):
            continue
        place = (chain["family"], chain["table"], chain["name"])
        final = [e for e in last.get(place, []) if "counter" not in e]
        ends = len(final) == 1 and any(word in final[0] for word in _DROPPING)
        if chain.get("policy") == "drop" or ends:
            yield BaseChain(*place, hook=chain["hook"])


def _place(rule: Mapping[str, Any]) -> tuple[str, str, str]:
    return rule["family"], rule["table"], rule["chain"]


def _lets_pass(
    chain: BaseChain,
    own: Sequence[Mapping[str, Any]],
    rules: Sequence[Mapping[str, Any]],
    instance: str,
) -> bool:
    """Whether our bridges are named in it, or in Docker's chain for its users."""
    called = [
        rule
        for rule in rules
        if (rule["family"], rule["table"]) == (chain.family, chain.table)
        and rule["chain"] == "DOCKER-USER"
    ]
    trusting = [r for r in rules if r["table"] == chain.table == "firewalld"]
    return _mentions((*own, *called, *trusting), f"{instance}-")


def _mentions(rules: Iterable[Mapping[str, Any]], what: str | int) -> bool:
    """Whether a rule that does not drop names a port, or links that begin so."""
    for rule in rules:
        text = json.dumps(rule["expr"])
        dropping = any(word in each for each in rule["expr"] for word in _DROPPING)
        sought = f'"{what}' if isinstance(what, str) else f": {what}"
        if sought in text and not dropping:
            return True
    return False


def _accepting(chain: BaseChain, instance: str) -> str:
    return (
        f"let what goes through Shoal's bridges pass there, Shoal's own table still decides:"
        f' `nft insert rule {chain.called} iifname "{instance}-*" accept` and the same with'
        " `oifname`, also in what makes this table"
    )


def forwarding(ground: Ground) -> Iterable[Finding]:
    """Switches that the agent sets: something else may set them back."""
    running = (Path(ground.config.run) / "pids.json").exists()
    for name, family in (("ipv4/ip_forward", "IPv4"), ("ipv6/conf/all/forwarding", "IPv6")):
        switch = Path("/proc/sys/net") / name
        value = switch.read_text().strip() if switch.exists() else ""
        yield judge_forwarding(family, value, running=running)


def judge_forwarding(family: str, value: str, *, running: bool) -> Finding:
    """`value` is the switch's content, empty where the kernel has none."""
    if not value:
        return warning(f"the kernel has no {family}", "boot a kernel that has it, if needed")
    if value == "0" and running:
        return warning(
            f"{family} forwarding is off though Shoal runs: something switches it off",
            "look for it in /etc/sysctl.conf and /etc/sysctl.d; the agent sets it every 10 s,"
            " where a container needs it",
        )
    state = "on" if value == "1" else "off; the agent switches it on with the first need"
    return ok(f"{family} forwarding is {state}")


def encryption(ground: Ground) -> Iterable[Finding]:
    """Whether networks can be encrypted: by the kernel, or by a program."""
    add = ("unshare", "--net", "ip", "link", "add", "t0", "type", "wireguard")
    kernel = ground.run(add).status == 0
    program = ground.run(("wireguard-go", "--version")).status == 0
    yield judge_encryption(kernel=kernel, program=program)


def judge_encryption(*, kernel: bool, program: bool) -> Finding:
    """Encrypted networks need one of both."""
    if kernel:
        return ok("the kernel has WireGuard: networks can be encrypted")
    if program:
        return ok("networks can be encrypted by wireguard-go, slowly: the kernel has none")
    return warning(
        "neither the kernel nor a program has WireGuard: encrypted networks cannot be here",
        "`apt-get install wireguard-go`, or a kernel with CONFIG_WIREGUARD",
    )
