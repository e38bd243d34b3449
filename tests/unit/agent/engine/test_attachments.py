"""Which networks a task's container asks for."""

from agent.engine.from_task import attachments_of
from agent.network.desired import Attachment
from shoal.model.assignment import AssignedTask, TaskNetwork
from shoal.model.ids import NetworkID, ServiceID, TaskID
from shoal.model.spec.service import PortConfig

RED = TaskNetwork(
    network_id=NetworkID("red"), addresses=("10.9.0.2/24",), mac="02:00:00:00:00:02"
)


def task(*networks: TaskNetwork, ports: tuple[PortConfig, ...] = ()) -> AssignedTask:
    return AssignedTask(
        id=TaskID("t"),
        service_id=ServiceID("s"),
        service_name="web",
        name="web.1.t",
        networks=networks,
        ports=ports,
    )


def test_without_networks_there_is_the_gateway_network() -> None:
    assert attachments_of(task()) == (Attachment(network="mesh"),)


def test_the_gateway_network_comes_last_and_may_be_left_out() -> None:
    assert attachments_of(task(RED)) == (
        Attachment(network="red", addresses=("10.9.0.2/24",), mac="02:00:00:00:00:02"),
        Attachment(network="mesh", service=ServiceID("s")),
    )


def test_with_a_port_on_the_host_the_gateway_network_is_needed() -> None:
    made = attachments_of(task(RED, ports=(PortConfig(target_port=80),)))
    assert made[-1] == Attachment(network="mesh")
