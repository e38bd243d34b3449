"""What a published port adds to the table: whose tasks it leads to, in which family."""

from agent.network.desired import (
    ANY_ADDRESS6,
    Backend,
    Endpoint,
    IngressPort,
    Interface,
    Mesh,
    Peer,
    PortBinding,
)
from agent.network.published import Mesher, Port, container_ports

MESH = Mesh(
    subnet="10.0.1.0/24",
    underlay="192.0.2.1",
    peers=(Peer(node="b", underlay="192.0.2.2", subnet="10.0.2.0/24"),),
    prefix6="fd00:5::/96",
)


def entry(*addresses: str, local_only: bool = False) -> IngressPort:
    backends = tuple(Backend(address=each, port=80) for each in addresses)
    return IngressPort(
        protocol="udp", published_port=9000, backends=backends, local_only=local_only
    )


def targets(port: Port) -> list[str]:
    return [value for name, _, value in port.elements if name.startswith("targets")]


def test_own_tasks_come_before_others() -> None:
    made = Mesher(MESH).port(entry("10.0.2.5", "10.0.1.5", "10.0.1.6", "10.0.1.5"))
    assert made.elements == (
        ("ports4", "udp . 9000", "goto pick4_2"),
        ("targets4", "0 . udp . 9000", "10.0.1.5 . 80"),
        ("targets4", "1 . udp . 9000", "10.0.1.6 . 80"),
        ("ports6", "udp . 9000", "goto pick6_2"),
        ("targets6", "0 . udp . 9000", "fd00:5::a00:105 . 80"),
        ("targets6", "1 . udp . 9000", "fd00:5::a00:106 . 80"),
    )
    assert made.picks == {(4, 2), (6, 2)}
    assert set(made.udp_targets or ()) == {
        ("10.0.1.5", 80),
        ("10.0.1.6", 80),
        ("fd00:5::a00:105", 80),
        ("fd00:5::a00:106", 80),
    }


def test_others_tasks_while_there_are_none_of_its_own() -> None:
    made = Mesher(MESH).port(entry("10.0.2.5", "10.0.9.5"))
    assert targets(made) == ["10.0.2.5 . 80", "fd00:5::a00:205 . 80"]


def test_local_only_refuses_where_there_is_no_own_task() -> None:
    made = Mesher(MESH).port(entry("10.0.2.5", local_only=True))
    assert made.elements == (("refused", "udp . 9000", ""),)
    assert made.udp_targets == frozenset()
    own = Mesher(MESH).port(entry("10.0.2.5", "10.0.1.5", local_only=True))
    assert targets(own) == ["10.0.1.5 . 80", "fd00:5::a00:105 . 80"]


def test_without_a_mesh_or_reachable_backend_it_refuses() -> None:
    for mesher in (Mesher(None), Mesher(MESH)):
        assert mesher.port(entry("10.0.9.5")).elements == (("refused", "udp . 9000", ""),)


def test_a_containers_port_is_there_in_the_families_it_speaks() -> None:
    both = Interface(
        network="mesh",
        addresses=("10.0.1.9/24", "fd00:5::a00:109/120"),
        gateways=("10.0.1.1", "fd00:5::a00:101"),
    )
    bindings = (
        PortBinding(container_port=80, host_port=8080),
        PortBinding(container_port=81, host_port=8081, host_ip=ANY_ADDRESS6),
        PortBinding(container_port=82, host_port=8082, host_ip="fd99::1"),
        PortBinding(protocol="udp", container_port=53, host_port=53, host_ip="127.0.0.1"),
    )
    endpoint = Endpoint(container="task", interfaces=(both,), ports=bindings)
    every, six, one_address, loopback = container_ports([endpoint])
    assert targets(every) == ["10.0.1.9 . 80", "fd00:5::a00:109 . 80"]
    assert targets(six) == ["fd00:5::a00:109 . 81"]
    assert one_address.elements == (("bound6", "fd99::1 . tcp . 8082", "fd00:5::a00:109 . 82"),)
    assert one_address.picks == frozenset()
    assert loopback.elements == (("bound4", "127.0.0.1 . udp . 53", "10.0.1.9 . 53"),)
    assert loopback.udp_targets == frozenset({("10.0.1.9", 53)})
