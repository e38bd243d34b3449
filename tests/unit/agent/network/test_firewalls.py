"""What is asked of other firewalls, and where in their chains."""

from collections.abc import Sequence

from agent.network.firewalls import Firewalls, chain_changes, rules_wanted
from agent.network.plan import names_for
from shoal.common.programs import Answer

NAMES = names_for("sh0")
IN = "-A DOCKER-USER -i sh0-+ -m comment --comment shoal_sh0 -j ACCEPT"
OUT = "-A DOCKER-USER -o sh0-+ -m comment --comment shoal_sh0 -j ACCEPT"
USERS = "-A DOCKER-USER -s 192.0.2.0/24 -j DROP"
END = "-A DOCKER-USER -j RETURN"


def listing(*rules: str) -> str:
    return "\n".join(("-N DOCKER-USER", *rules))


def test_bridges_of_docker_stay_dockers_to_decide() -> None:
    links = ("docker0", "br-0123456789ab", "br-lan", "eth0", "sh0-c")
    assert rules_wanted(NAMES, links) == [
        "-A DOCKER-USER -i sh0-+ -o br-0123456789ab -m comment --comment shoal_sh0 -j RETURN",
        "-A DOCKER-USER -i sh0-+ -o docker0 -m comment --comment shoal_sh0 -j RETURN",
        IN,
        OUT,
    ]


def test_rules_come_after_the_users_and_before_the_end() -> None:
    changes = chain_changes(listing(USERS, END), [IN, OUT], "shoal_sh0")
    assert changes == [
        IN.replace("-A DOCKER-USER", "-I DOCKER-USER 2"),
        OUT.replace("-A DOCKER-USER", "-I DOCKER-USER 3"),
    ]
    assert chain_changes(listing(USERS, IN, OUT, END), [IN, OUT], "shoal_sh0") == []
    assert chain_changes(listing(IN, OUT), [IN, OUT], "shoal_sh0") == []


def test_rules_in_the_wrong_place_doubled_or_stale_are_put_right() -> None:
    behind = chain_changes(listing(END, IN, OUT), [IN, OUT], "shoal_sh0")
    assert behind[:2] == [IN.replace("-A", "-D", 1), OUT.replace("-A", "-D", 1)]
    assert behind[2].startswith("-I DOCKER-USER 1 ")
    assert chain_changes(listing(IN, OUT, IN), [IN, OUT], "shoal_sh0") != []
    assert chain_changes(listing(IN, USERS), [], "shoal_sh0") == [IN.replace("-A", "-D", 1)]
    other = IN.replace("shoal_sh0", "shoal_sh01")
    assert chain_changes(listing(other), [], "shoal_sh0") == []


class Firewalld:
    """Answers as firewall-cmd does, and has no iptables."""

    def __init__(self) -> None:
        self.trusted: set[str] = set()
        self.asked = 0

    def run(self, command: Sequence[str], stdin: str) -> Answer:
        del stdin
        if command[0] != "firewall-cmd":
            return Answer(127, "not found")
        self.asked += 1
        assert command[1] == "--zone=trusted"
        verb, _, interface = command[2].removeprefix("--").partition("=")
        if verb == "query-interface":
            return Answer(0 if interface in self.trusted else 1, "")
        change = {"add-interface": self.trusted.add, "remove-interface": self.trusted.remove}
        change[verb](interface)
        return Answer(0, "success")


def test_firewalld_trusts_our_bridges_again_after_its_reload() -> None:
    firewalld = Firewalld()
    firewalls = Firewalls(NAMES, firewalld.run, lambda: True)
    firewalls.apply((), changed=True)
    assert firewalld.trusted == {"sh0-+"}
    before = firewalld.asked
    firewalls.apply((), changed=False)
    assert firewalld.asked == before
    firewalld.trusted.clear()
    firewalls.apply((), changed=True)
    assert firewalld.trusted == {"sh0-+"}
    firewalls.remove()
    assert firewalld.trusted == set()


def test_a_firewalld_of_another_namespace_is_left_alone() -> None:
    firewalld = Firewalld()
    firewalls = Firewalls(NAMES, firewalld.run, lambda: False)
    firewalls.apply((), changed=True)
    firewalls.remove()
    assert firewalld.asked == 0
