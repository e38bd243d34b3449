"""The deciders together: whatever happens before, a fair world brings the cluster to rest."""

from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any

import msgspec
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from shoal.model.objects import Service, Task
from shoal.model.spec.service import (
    Global,
    PortConfig,
    Replicated,
    ServiceMode,
    ServiceSpec,
    UpdateConfig,
)
from shoal.model.spec.task import Placement, RestartPolicy
from shoal.model.states import NodeState, TaskState, UpdateState
from tests.builders import (
    GIB,
    SECOND,
    make_cluster,
    make_node,
    make_resources,
    make_service,
    make_spec,
)
from tests.properties.world import World, never

PROFILE = settings(
    max_examples=150,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow],
    derandomize=True,
)
NODES = 3
BAD = "app:3"

actions = st.one_of(
    st.tuples(st.just("down"), st.integers(1, NODES)),
    st.tuples(st.just("up"), st.integers(1, NODES)),
    st.tuples(st.sampled_from(["drain", "pause", "active"]), st.integers(1, NODES)),
    st.tuples(st.sampled_from(["label", "unlabel"]), st.integers(1, NODES)),
    st.tuples(st.just("scale"), st.integers(0, 5)),
    st.tuples(st.just("image"), st.integers(1, 3)),
    st.tuples(st.just("fail"), st.integers(0, 9)),
    st.tuples(st.just("decide"), st.integers(0, 3)),
    st.tuples(st.just("obey"), st.integers(1, 3)),
    st.tuples(st.just("wait"), st.integers(1, 90)),
)

modes = st.sampled_from(
    [ServiceMode(replicated=Replicated(replicas=3)), ServiceMode(global_=Global())]
)
updates = st.builds(
    UpdateConfig,
    parallelism=st.integers(0, 2),
    delay=st.sampled_from([0, 2 * SECOND]),
    failure_action=st.sampled_from(["pause", "continue", "rollback"]),
    order=st.sampled_from(["stop-first", "start-first"]),
    max_failure_ratio=st.sampled_from([0.0, 0.5]),
)
restarts = st.one_of(
    st.none(),
    st.builds(
        RestartPolicy,
        condition=st.sampled_from(["any", "on-failure"]),
        delay=st.sampled_from([0, 3 * SECOND]),
    ),
)
host_port = (
    PortConfig(target_port=80, published_port=8080, protocol="tcp", publish_mode="host"),
)
specs = st.builds(
    make_spec,
    mode=modes,
    update=updates,
    restart=restarts,
    ports=st.sampled_from([(), host_port]),
    placement=st.sampled_from(
        [None, Placement(max_replicas=2), Placement(constraints=("node.labels.disk==ssd",))]
    ),
    reserve=st.sampled_from([None, make_resources(1, 5 * GIB)]),
)


class Story:
    """One cluster with one service, and what happens to it."""

    def __init__(self, spec: ServiceSpec) -> None:
        self.world = World(self._fails)
        self.unfair = True
        self.world.put(make_cluster())
        for number in range(1, NODES + 1):
            self.world.put(make_node(f"n{number}", subnet=f"10.128.{number}.0/24"))
        self.world.put(make_service("s1", spec))

    def _fails(self, task: Task) -> bool:
        container = task.spec.container_spec
        return self.unfair and container is not None and container.image == BAD

    def happen(self, what: str, how: int) -> None:
        steps: dict[str, Callable[[], object]] = {
            "down": lambda: self._node(how, state=NodeState.DOWN, session=None),
            "up": lambda: self._node(how, **up(f"n{how}")),
            "label": lambda: self._spec_of(how, labels={"disk": "ssd"}),
            "unlabel": lambda: self._spec_of(how, labels={}),
            "scale": lambda: self._change(replicas=how),
            "image": lambda: self._change(image=f"app:{how}"),
            "fail": lambda: self._fail(how),
            "decide": lambda: self.world.decide(lambda position: position < how),
            "obey": self.world.obey,
            "wait": lambda: self.world.wait(how),
        }
        steps.get(what, lambda: self._spec_of(how, availability=what))()
        never(self.world.tables)

    def go_on(self, rounds: int) -> None:
        """The cluster does its work for a while."""
        for _ in range(rounds):
            self.world.decide()
            never(self.world.tables)
            self.surplus()
            self.world.obey()
            never(self.world.tables)

    def surplus(self) -> None:
        """After a pass: no more slots than replicas, two tasks in one only to replace one."""
        wanted = [t for t in self.world.tables.tasks() if t.wanted and t.service_id == "s1"]
        slots = Counter((task.slot, "" if task.slot else task.node_id) for task in wanted)
        replicated = self.service.spec.mode.replicated
        if replicated is not None:
            assert len(slots) <= (replicated.replicas or 0), self.world.story()
        assert all(count <= 2 for count in slots.values()), self.world.story()

    def _node(self, number: int, **fields: Any) -> None:
        node = self.world.tables.node(make_node(f"n{number}").id)
        assert node is not None
        if fields.get("state") is NodeState.DOWN:
            fields["down_since"] = self.world.now
        self.world.put(msgspec.structs.replace(node, **fields))

    def _spec_of(self, number: int, **fields: Any) -> None:
        node = self.world.tables.node(make_node(f"n{number}").id)
        assert node is not None
        self._node(number, spec=msgspec.structs.replace(node.spec, **fields))

    @property
    def service(self) -> Service:
        found = self.world.tables.service(make_service("s1").id)
        assert found is not None
        return found

    def _change(self, replicas: int | None = None, image: str = "") -> None:
        """As `manager.control` writes a change of the spec."""
        before = self.service
        spec = before.spec
        if replicas is not None and spec.mode.global_ is None:
            mode = ServiceMode(replicated=Replicated(replicas=replicas))
            spec = msgspec.structs.replace(spec, mode=mode)
        container = spec.task_template.container_spec
        if image and container is not None:
            container = msgspec.structs.replace(container, image=image)
            template = msgspec.structs.replace(spec.task_template, container_spec=container)
            spec = msgspec.structs.replace(spec, task_template=template)
        if spec == before.spec:
            return
        self.world.put(
            msgspec.structs.replace(
                before,
                spec=spec,
                spec_version=before.spec_version + 1,
                previous_spec=before.spec,
                previous_spec_version=before.spec_version,
                update=None,
                update_status=None,
            )
        )

    def _fail(self, which: int) -> None:
        tasks = [t for t in self.world.tables.tasks() if t.status.state is TaskState.RUNNING]
        if tasks:
            self.world.report(tasks[which % len(tasks)], TaskState.FAILED)

    def heal(self) -> None:
        """From now on the world is fair: every node is there and takes tasks."""
        for number in range(1, NODES + 1):
            self._node(number, **up(f"n{number}"))
            self._spec_of(number, availability="active", labels={"disk": "ssd"})
        self.unfair = False


def up(identity: str) -> dict[str, Any]:
    return {
        "state": NodeState.READY,
        "session": make_node(identity).session,
        "lost_since": None,
        "down_since": None,
        "message": "",
    }


@PROFILE
@given(spec=specs, script=st.lists(st.tuples(actions, st.integers(0, 4)), max_size=12))
def test_a_fair_world_comes_to_rest(
    spec: ServiceSpec, script: Sequence[tuple[tuple[str, int], int]]
) -> None:
    story = Story(spec)
    story.go_on(4)
    for (what, how), rounds in script:
        story.happen(what, how)
        story.go_on(rounds)
    story.heal()
    story.world.settle()
    settled(story)


def settled(story: Story) -> None:
    """As many tasks run as are wanted, or as there is room for."""
    service, world = story.service, story.world
    wanted = NODES
    if service.spec.mode.replicated is not None:
        wanted = service.spec.mode.replicated.replicas or 0
        if service.spec.endpoint_spec is not None or service.spec.task_template.resources:
            wanted = min(wanted, NODES)  # a port or 5 of 8 GiB: one on each node
    assert len(world.running(service.id)) == wanted, world.story()
    status = service.update_status
    if status is not None:
        assert status.state not in (UpdateState.UPDATING, UpdateState.ROLLBACK_STARTED)


ROLLOUT = UpdateConfig(parallelism=2, order="start-first", failure_action="rollback")


@pytest.mark.parametrize("rounds", range(6))
@pytest.mark.parametrize("image", [2, 3])
def test_every_prefix_of_every_decision_goes_on_from_there(rounds: int, image: int) -> None:
    """The store takes the first groups of a pass and no more, at each step of a rollout."""
    length = kept = 0
    while kept <= length:
        story = Story(make_spec(replicas=3, update=ROLLOUT))
        story.world.settle()
        story.happen("drain", 1)
        story.happen("image", image)
        story.go_on(rounds)
        length = story.world.decide(lambda position, kept=kept: position < kept)  # type: ignore[misc]
        never(story.world.tables)
        story.heal()
        story.world.settle()
        settled(story)
        kept += 1
