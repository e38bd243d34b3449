"""What a node is told of secrets and configs: who consumes, templates, portions."""

import pytest

from manager.dispatcher.assignments import (
    ClusterPart,
    Confidences,
    TaskParts,
    assignments_for,
    complete,
    portions,
)
from manager.dispatcher.networks import NetworkParts
from manager.store.memory import Memory
from shoal.common.engine_http.body import convert
from shoal.model.assignment import Assignments, Difference, Payload
from shoal.model.ids import ConfigID, NodeID, SecretID, ServiceID, TaskID
from shoal.model.objects import Config, Node, Secret, Task, TaskStatus
from shoal.model.spec.service import ServiceSpec
from shoal.model.states import TaskState

NODE = NodeID("n" * 25)
TEMPLATE = '{{.Service.Name}} {{secret "pw"}} {{config "plain"}} {{env "A"}}{{env "B"}}'


def task(state: TaskState = TaskState.RUNNING, desired: TaskState = TaskState.RUNNING) -> Task:
    container = {
        "Image": "a",
        "Env": ["A=x"],
        "Secrets": [{"SecretID": "s1", "SecretName": "one", "File": {"Name": "pw"}}],
        "Configs": [
            {"ConfigID": "c1", "ConfigName": "plain", "File": {"Name": "plain"}},
            {"ConfigID": "c2", "ConfigName": "made", "File": {"Name": "made"}},
        ],
    }
    spec = convert({"Name": "web", "TaskTemplate": {"ContainerSpec": container}}, ServiceSpec)
    return Task(
        id=TaskID("t1"),
        service_id=ServiceID("web"),
        spec_version=1,
        service_spec=spec,
        slot=1,
        node_id=NODE,
        desired_state=desired,
        status=TaskStatus(state=state),
    )


def told(of: Task, template: str = TEMPLATE, *, secret: bool = True) -> Assignments:
    view = Memory()
    view.put(Node(id=NODE))
    view.put(of)
    if secret:
        view.put(Secret(id=SecretID("s1"), name="one", sealed=b"sealed"))
    view.put(Config(id=ConfigID("c1"), name="plain", data=b"as it is {{}}"))
    made = Config(id=ConfigID("c2"), name="made", data=template.encode(), templating="golang")
    view.put(made)
    confidences = Confidences({}, lambda found: b"opened " + found.sealed)
    part, parts = ClusterPart(), NetworkParts()
    return assignments_for(
        view, NODE, part, parts, confidences, lambda task: False, TaskParts()
    )


def test_payloads_are_opened_and_expanded_for_a_task() -> None:
    found = told(task())
    assert found.secrets == {"s1": Payload(id="s1", data=b"opened sealed")}
    assert found.configs["c1"].data == b"as it is {{}}"
    assert found.configs["c2.t1"].data == b"web opened sealed as it is {{}} x"
    (assigned,) = found.tasks.values()
    assert [one.config_id for one in assigned.container.configs] == ["c1", "c2.t1"]


@pytest.mark.parametrize(
    ("state", "desired"),
    [
        (TaskState.COMPLETE, TaskState.RUNNING),
        (TaskState.FAILED, TaskState.RUNNING),
        (TaskState.RUNNING, TaskState.SHUTDOWN),
        (TaskState.RUNNING, TaskState.REMOVE),
    ],
)
def test_who_consumes_no_more_is_told_nothing(state: TaskState, desired: TaskState) -> None:
    found = told(task(state, desired))
    assert len(found.tasks) == 1
    assert (found.secrets, found.configs) == ({}, {})


def test_what_cannot_be_given_says_why() -> None:
    found = told(task(), '{{secret "nope"}}', secret=False)
    assert found.secrets["s1"].error == "one does not exist any more"
    assert "secret target nope not found" in found.configs["c2.t1"].error


def test_large_payloads_follow_in_messages_of_bounded_size() -> None:
    names = [f"c{number}" for number in range(5)]
    change = Difference(configs=tuple(Payload(id=name, data=b"x" * 40) for name in names))
    found = portions(change, 100)
    assert [len(part.configs) for part in found] == [2, 2, 1]
    assert [one.id for part in found for one in part.configs] == names
    small = complete(told(task()))
    assert portions(small) == [small]
