"""Which virtual IPs lead where, and the moves from one state to the next."""

from collections.abc import Mapping

from hypothesis import given
from hypothesis import strategies as st

from agent.network.balancing import (
    MOST_BACKENDS,
    Backends,
    Move,
    Placed,
    changes,
    moved,
    moves,
    virtual_ips,
)
from agent.network.vip_rules import pick_steps, picks_of, steps
from shoal.model.assignment import NetworkEndpoint, NetworkService
from shoal.model.ids import NetworkID, NodeID, ServiceID, TaskID

NETWORK = NetworkID("net")
WEB = ServiceID("web")
Endpoints = Mapping[str, list[NetworkEndpoint]]


def service(*virtual: str) -> NetworkService:
    return NetworkService(network_id=NETWORK, service_id=WEB, name="web", virtual_ips=virtual)


def endpoint(number: int, *, serving: bool = True) -> NetworkEndpoint:
    return NetworkEndpoint(
        network_id=NETWORK,
        task_id=TaskID(f"t{number}"),
        node_id=NodeID("n"),
        underlay="192.0.2.1",
        addresses=(f"10.0.1.{number}", f"fd00::{number}"),
        mac="",
        service_id=WEB,
        serving=serving,
    )


def test_only_serving_backends_of_the_same_family() -> None:
    endpoints = [endpoint(3), endpoint(2), endpoint(4, serving=False)]
    assert virtual_ips(service("10.0.0.9", "FD00::0099"), endpoints) == {
        "10.0.0.9": ("10.0.1.2", "10.0.1.3"),
        "fd00::99": ("fd00::2", "fd00::3"),
    }
    assert virtual_ips(service("10.0.0.9"), []) == {"10.0.0.9": ()}
    assert virtual_ips(service(), endpoints) == {}


backend_sets = st.sets(st.integers(1, 9)).map(
    lambda numbers: tuple(sorted(f"10.0.1.{n}" for n in numbers))
)
states = st.dictionaries(st.sampled_from(["10.0.0.1", "10.0.0.2", "fd00::1"]), backend_sets)


class Kernel:
    """The maps as elements come and go; refuses what nftables would."""

    def __init__(self) -> None:
        self.keys: dict[tuple[str, int], str] = {}

    def apply(self, move: Move) -> None:
        for placed, half, count in _deleted(move):
            for number in range(count):
                del self.keys[placed.address, half * MOST_BACKENDS + number]
        if move.new is not None:
            for number, backend in enumerate(move.new.backends):
                key = (move.new.address, move.new.half * MOST_BACKENDS + number)
                assert key not in self.keys
                self.keys[key] = backend


def _deleted(move: Move) -> list[tuple[Placed, int, int]]:
    if move.old is None:
        return []
    gone = [(move.old, 1 - move.old.half, move.old.left)]
    if move.new is None:
        gone.append((move.old, move.old.half, len(move.old.backends)))
    return gone


@given(st.lists(states, max_size=6))
def test_every_path_of_changes_ends_where_it_should(path: list[dict[str, Backends]]) -> None:
    kernel = Kernel()
    placed: dict[str, Placed] = {}
    before: dict[str, Backends] = {}
    for wanted in path:
        used = dict(kernel.keys)
        done = moves(placed, changes(before, wanted))
        for move in done:
            if move.old is not None and move.new is not None:  # found until the change after
                for number, backend in enumerate(move.old.backends):
                    key = (move.old.address, move.old.half * MOST_BACKENDS + number)
                    assert used[key] == backend
        for move in done:
            kernel.apply(move)
        placed = moved(placed, done)
        before = wanted
        assert {a: each.backends for a, each in placed.items()} == wanted
        assert len(kernel.keys) == sum(len(p.backends) + p.left for p in placed.values())
        for address, each in placed.items():
            start = each.half * MOST_BACKENDS
            chosen = [kernel.keys[address, start + n] for n in range(len(each.backends))]
            assert tuple(chosen) == each.backends


def test_a_change_is_the_same_messages_whatever_else_is_there() -> None:
    def change(others: int) -> list[bytes]:
        wanted = {f"10.1.{n // 250}.{n % 250}": ("10.0.1.1",) for n in range(others)}
        placed = moved({}, moves({}, {**wanted, "10.0.0.1": ("10.0.1.1", "10.0.1.2")}))
        done = moves(placed, {"10.0.0.1": ("10.0.1.1",)})
        return [each.body for each in (*pick_steps(picks_of(placed.values())), *steps(done))]

    assert change(10) == change(1000)


def test_what_is_lost() -> None:
    old = Placed(address="10.0.0.1", half=0, backends=("10.0.1.1", "10.0.1.2"))
    new = Placed(address="10.0.0.1", half=1, backends=("10.0.1.2",), left=2)
    assert list(Move(old, new).lost()) == [("10.0.0.1", "10.0.1.1")]
    assert len(list(Move(old, None).lost())) == 2
    assert not list(Move(None, new).lost())
