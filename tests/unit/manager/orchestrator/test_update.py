"""Rolling updates and rollbacks: every field, step by step, and each way they end."""

from collections.abc import Callable, Sequence

import pytest
from msgspec.structs import replace

from manager.orchestrator import update
from manager.store.tables import Tables
from shoal.model.changes import NOTHING, Decision
from shoal.model.ids import ServiceID
from shoal.model.objects import (
    Node,
    Service,
    Task,
    UpdatedSlot,
    UpdateProgress,
    UpdateStatus,
)
from shoal.model.spec.service import (
    Global,
    PortConfig,
    ReplicatedJob,
    ServiceMode,
    ServiceSpec,
    UpdateConfig,
)
from shoal.model.spec.task import NetworkAttachmentConfig, Placement, RestartPolicy
from shoal.model.states import NodeState, UpdateState
from shoal.model.states import TaskState as S
from tests.builders import (
    SECOND,
    Ids,
    at,
    created,
    make_node,
    make_service,
    make_spec,
    make_task,
    settle,
    tables,
    updated,
)


def config(
    parallelism: int = 1, delay: float = 0, monitor: float = 5, **more: object
) -> UpdateConfig:
    return UpdateConfig(
        parallelism=parallelism,
        delay=int(delay * SECOND),
        monitor=int(monitor * SECOND),
        **more,  # type: ignore[arg-type]
    )


class Rollout:
    """A service of three replicas that is told to run another image."""

    def __init__(
        self,
        config_: UpdateConfig | None = None,
        rollback: UpdateConfig | None = None,
        replicas: int = 3,
        change: Callable[[ServiceSpec], ServiceSpec] | None = None,
        **more: object,
    ) -> None:
        spec = make_spec(replicas=replicas, update=config_, rollback=rollback, **more)  # type: ignore[arg-type]
        old = make_service("s1", spec)
        new_spec = change(spec) if change is not None else with_image(spec, "app:2")
        self.ids = Ids()
        self.view = tables(
            *(make_node(f"n{n}") for n in (1, 2, 3)),
            *(make_task(f"old{n}", old, slot=n, node=f"n{n}") for n in range(1, replicas + 1)),
            replace(
                old,
                spec=new_spec,
                spec_version=2,
                previous_spec=spec,
                previous_spec_version=1,
            ),
        )

    @property
    def service(self) -> Service:
        found = self.view.service(ServiceID("s1"))
        assert found is not None
        return found

    def state(self) -> UpdateState | None:
        status = self.service.update_status
        return status.state if status is not None else None

    def decide(self, now: float) -> Decision:
        return update.decide(self.view, "s1", at(now), self.ids)

    def step(self, now: float) -> list[int]:
        """One decision, written; the slots that were begun."""
        decision = self.decide(now)
        settle(self.view, decision)
        return [task.slot for task in created(decision)]

    def new(self, slot: int) -> Task:
        """The newest task of a slot."""
        tasks = [t for t in self.view.tasks_of_service(ServiceID("s1")) if t.slot == slot]
        return max(tasks, key=lambda task: (task.spec_version, task.created_at, task.id))

    def report(self, slot: int, state: S, now: float) -> None:
        task = self.new(slot)
        status = replace(task.status, state=state, timestamp=at(now))
        self.view.put(replace(task, status=status))

    def wanted(self, slot: int) -> list[int]:
        """Spec versions of a slot's tasks that are wanted."""
        tasks = self.view.tasks_of_service(ServiceID("s1"))
        return sorted(t.spec_version for t in tasks if t.slot == slot and t.wanted)

    def run(self, now: float, *slots: int) -> None:
        for slot in slots:
            self.report(slot, S.RUNNING, now)


def with_image(spec: ServiceSpec, image: str) -> ServiceSpec:
    container = spec.task_template.container_spec
    assert container is not None
    template = replace(spec.task_template, container_spec=replace(container, image=image))
    return replace(spec, task_template=template)


# -- what an update is -------------------------------------------------------------------------


def test_nothing_to_update() -> None:
    service = make_service()
    for things in ([], [service], [service, make_task("t1", service)]):
        assert update.decide(tables(*things), "s1", at(0), Ids()) == NOTHING
    job = make_service(spec=make_spec(mode=ServiceMode(replicated_job=ReplicatedJob())))
    assert update.decide(tables(job), "s1", at(0), Ids()) == NOTHING


@pytest.mark.parametrize(
    "change",
    [
        lambda spec: replace(spec, labels={"a": "b"}),
        lambda spec: replace(spec, update_config=config(7)),
        lambda spec: replace(spec, mode=make_spec(replicas=3).mode),
    ],
)
def test_what_makes_no_other_task_updates_nothing(
    change: Callable[[ServiceSpec], ServiceSpec],
) -> None:
    assert Rollout(change=change).decide(0) == NOTHING


def test_a_change_of_ports_or_template_updates() -> None:
    port = PortConfig(target_port=80)
    changes: Sequence[Callable[[ServiceSpec], ServiceSpec]] = (
        lambda spec: replace(spec, endpoint_spec=make_spec(ports=(port,)).endpoint_spec),
        lambda spec: replace(spec, task_template=replace(spec.task_template, force_update=1)),
    )
    for change in changes:
        assert Rollout(change=change).step(0) == [1]


def constrained(*constraints: str) -> Callable[[ServiceSpec], ServiceSpec]:
    def change(spec: ServiceSpec) -> ServiceSpec:
        placement = Placement(constraints=constraints) if constraints else None
        return replace(spec, task_template=replace(spec.task_template, placement=placement))

    return change


def test_tasks_that_fit_new_constraints_stay() -> None:
    assert Rollout(change=constrained("node.id!=n2")).step(0) == [2]
    assert Rollout(change=constrained("nonsense")).step(0) == [1]
    before = Placement(constraints=("node.id!=n9",))
    assert Rollout(change=constrained(), placement=before).decide(0) == NOTHING
    rollout = Rollout(change=constrained("node.role==worker"))
    rollout.view.drop("n3")
    rollout.view.drop("old1")
    waits = make_task("old1", slot=1, node=None, state=S.PENDING)
    rollout.view.put(waits)
    assert rollout.step(0) == [1], "slot 3's node is gone, slot 1 has none yet"


# -- pace --------------------------------------------------------------------------------------


def test_stop_first_one_at_a_time_in_the_order_of_slots() -> None:
    rollout = Rollout()
    assert rollout.step(0) == [1]
    assert rollout.state() is UpdateState.UPDATING
    assert rollout.wanted(1) == [2]
    new = rollout.new(1)
    assert (new.replaces, new.desired_state, new.reason) == ("old1", S.READY, "update")
    old = rollout.view.task(make_task("old1").id)
    assert old is not None
    assert (old.desired_state, old.reason) == (S.SHUTDOWN, "replaced by an update")
    assert rollout.step(1) == []
    rollout.run(2, 1)
    assert rollout.step(2) == [2]
    rollout.run(3, 2)
    assert rollout.step(3) == [3]
    rollout.run(4, 3)
    assert rollout.step(4) == []
    assert rollout.state() is UpdateState.UPDATING, "the last slots are still watched"
    assert rollout.decide(4).wake_at == at(7)
    assert rollout.step(8.9) == []
    rollout.step(9)
    assert rollout.state() is UpdateState.COMPLETED
    assert rollout.service.update is None
    status = rollout.service.update_status
    assert status == UpdateStatus(
        state=UpdateState.COMPLETED,
        started_at=at(0),
        completed_at=at(9),
        message="update completed",
    )
    assert rollout.decide(99) == NOTHING


def test_start_first_keeps_the_old_one_until_the_new_one_runs() -> None:
    rollout = Rollout(config(order="start-first"))
    assert rollout.step(0) == [1]
    assert rollout.wanted(1) == [1, 2]
    new = rollout.new(1)
    assert (new.replaces, new.desired_state) == ("old1", S.RUNNING)


def test_start_first_replaces_what_does_not_run_at_once() -> None:
    rollout = Rollout(config(order="start-first"))
    rollout.report(1, S.STARTING, 0)
    assert rollout.step(0) == [1], "what does not serve goes first"
    assert rollout.wanted(1) == [2]


def test_what_does_not_run_is_updated_first() -> None:
    rollout = Rollout()
    rollout.report(3, S.PREPARING, 0)
    assert rollout.step(0) == [3]


@pytest.mark.parametrize(("parallelism", "slots"), [(1, [1]), (2, [1, 2]), (0, [1, 2, 3])])
def test_parallelism(parallelism: int, slots: list[int]) -> None:
    assert Rollout(config(parallelism)).step(0) == slots


def test_without_a_config_one_at_a_time() -> None:
    assert Rollout(None).step(0) == [1]


def test_the_delay_counts_from_when_a_slot_runs() -> None:
    rollout = Rollout(config(delay=10))
    rollout.step(0)
    rollout.run(3, 1)
    assert rollout.step(3) == []
    assert rollout.decide(3).wake_at == at(13)
    assert rollout.step(12) == []
    assert rollout.step(13) == [2]


def test_a_replacement_that_is_late_frees_its_place_and_counts_as_failed() -> None:
    rollout = Rollout(
        config(failure_action="continue"), labels={"shoal.update.deadline": "60s"}
    )
    rollout.step(0)
    assert rollout.decide(1).wake_at == at(60)
    assert rollout.step(59) == []
    assert rollout.step(60) == [2]
    progress = rollout.service.update
    assert progress is not None
    assert len(progress.failed) == 1


def test_the_deadline_is_five_minutes_and_the_monitor_by_default() -> None:
    rollout = Rollout(config(monitor=7))
    rollout.step(0)
    assert rollout.decide(1).wake_at == at(307)
    rollout.step(307)
    assert rollout.state() is UpdateState.PAUSED


def test_a_slot_whose_task_is_moved_before_it_runs_stays_busy() -> None:
    """The slot is down because of the update, whoever brings it up again."""
    rollout = Rollout()
    rollout.step(0)
    task = rollout.new(1)
    rollout.view.put(replace(task, desired_state=S.SHUTDOWN))
    moved = replace(task, id=make_task("moved").id, created_at=at(1))
    rollout.view.put(moved)
    assert rollout.step(1) == []
    progress = rollout.service.update
    assert progress is not None
    assert [slot.task for slot in progress.slots] == ["moved"]
    assert progress.failed == ()
    rollout.view.put(replace(moved, status=replace(moved.status, state=S.RUNNING)))
    assert rollout.step(2) == [2]


def test_a_slot_that_is_given_up_is_no_longer_watched() -> None:
    rollout = Rollout()
    rollout.step(0)
    rollout.view.put(replace(rollout.new(1), desired_state=S.REMOVE))
    assert rollout.step(1) == [2]


def test_a_slot_whose_task_was_reaped_keeps_its_delay() -> None:
    rollout = Rollout(config(delay=10))
    rollout.step(0)
    rollout.run(1, 1)
    rollout.step(1)
    rollout.view.drop(rollout.new(1).id)
    assert rollout.step(5) == []
    assert rollout.step(11) == [2]


def test_a_slot_whose_task_never_came_to_be_is_begun_again() -> None:
    """The service's change was written, the slot's was not: the store took no more."""
    rollout = Rollout()
    decision = rollout.decide(0)
    settle(rollout.view, replace(decision, groups=decision.groups[:1]))
    assert rollout.step(1) == [1]
    progress = rollout.service.update
    assert progress is not None
    assert len(progress.slots) == 1


# -- failures ----------------------------------------------------------------------------------


def failed_at(rollout: Rollout, slot: int, now: float) -> None:
    rollout.report(slot, S.FAILED, now)
    rollout.step(now)


def test_an_early_end_pauses() -> None:
    rollout = Rollout()
    rollout.step(0)
    failed_at(rollout, 1, 1)
    assert rollout.state() is UpdateState.PAUSED
    status = rollout.service.update_status
    assert status is not None
    task = rollout.new(1).id
    assert status.message == (
        f"update paused due to failure or early termination of task {task}"
    )
    assert status.completed_at is None
    assert rollout.decide(99) == NOTHING


@pytest.mark.parametrize("state", [S.COMPLETE, S.FAILED, S.REJECTED])
def test_an_end_within_the_monitor_period_is_a_failure(state: S) -> None:
    rollout = Rollout(config(monitor=10))
    rollout.step(0)
    rollout.run(1, 1)
    rollout.step(1)
    rollout.report(1, state, 10.9)
    rollout.step(10.9)
    assert rollout.state() is UpdateState.PAUSED


def test_an_end_after_it_is_not() -> None:
    rollout = Rollout(config(monitor=2, delay=30))
    rollout.step(0)
    rollout.run(1, 1)
    rollout.step(1)
    failed_at(rollout, 1, 3)
    assert rollout.state() is UpdateState.UPDATING


def test_a_ratio_of_failures_is_allowed() -> None:
    rollout = Rollout(config(parallelism=0, max_failure_ratio=0.34))
    rollout.step(0)
    failed_at(rollout, 1, 1)
    assert rollout.state() is UpdateState.UPDATING
    failed_at(rollout, 2, 2)
    assert rollout.state() is UpdateState.PAUSED


def test_continue_goes_on_and_completes() -> None:
    rollout = Rollout(
        config(failure_action="continue"), restart=RestartPolicy(condition="none")
    )
    assert rollout.step(0) == [1]
    rollout.report(1, S.FAILED, 1)
    assert rollout.step(1) == [2]
    rollout.run(2, 2)
    assert rollout.step(2) == [3]
    rollout.run(3, 3)
    rollout.step(3)
    rollout.step(60)
    assert rollout.state() is UpdateState.COMPLETED


def test_what_cannot_be_rolled_back_to_is_paused_and_says_why() -> None:
    """The spec before names a network that was removed meanwhile: no write of it would pass."""
    rollout = Rollout(config(failure_action="rollback"))
    rollout.step(0)
    rollout.run(1, 1)
    assert rollout.step(1) == [2]
    previous = rollout.service.previous_spec
    assert previous is not None
    template = replace(
        previous.task_template, networks=(NetworkAttachmentConfig(target="net"),)
    )
    before = replace(previous, task_template=template)
    rollout.view.put(replace(rollout.service, previous_spec=before))
    failed_at(rollout, 2, 2)
    assert rollout.state() is UpdateState.PAUSED
    assert rollout.service.update_status is not None
    assert rollout.service.update_status.message.endswith(
        "; it cannot be rolled back: network net was removed"
    )


def test_rollback_takes_the_spec_before_and_its_own_settings() -> None:
    rollout = Rollout(config(failure_action="rollback"), config(2, order="start-first"))
    rollout.step(0)
    rollout.run(1, 1)
    assert rollout.step(1) == [2]
    previous = rollout.service.previous_spec
    failed_at(rollout, 2, 2)
    service = rollout.service
    assert rollout.state() is UpdateState.ROLLBACK_STARTED
    assert (service.spec, service.spec_version, service.previous_spec) == (previous, 3, None)
    assert service.update_status is not None
    assert service.update_status.message.startswith("update rolled back due to failure")
    assert rollout.step(3) == [2, 1], "what serves with the bad spec goes last"
    assert rollout.wanted(1) == [2, 3]
    rollout.run(4, 1, 2)
    rollout.step(4)
    rollout.step(60)
    assert rollout.state() is UpdateState.ROLLBACK_COMPLETED
    assert rollout.service.update_status is not None
    assert rollout.service.update_status.message == "rollback completed"


def test_a_failing_update_does_not_fail_its_rollback() -> None:
    """Start-first: beside what the update had begun stands what is right all the time."""
    rollout = Rollout(config(2, order="start-first", failure_action="rollback"))
    assert rollout.step(0) == [1, 2]
    failed_at(rollout, 1, 1)
    assert rollout.state() is UpdateState.ROLLBACK_STARTED
    failed_at(rollout, 2, 2)
    assert rollout.state() is UpdateState.ROLLBACK_COMPLETED


def test_a_rollback_is_not_rolled_back() -> None:
    rollout = Rollout(config(failure_action="rollback"), config(failure_action="rollback"))
    rollout.step(0)
    failed_at(rollout, 1, 1)
    assert rollout.state() is UpdateState.ROLLBACK_STARTED
    assert rollout.step(2) == [1]
    failed_at(rollout, 1, 3)
    assert rollout.state() is UpdateState.ROLLBACK_PAUSED


def test_without_a_spec_before_rollback_pauses() -> None:
    rollout = Rollout(config(failure_action="rollback"))
    rollout.view.put(replace(rollout.service, previous_spec=None))
    rollout.step(0)
    failed_at(rollout, 1, 1)
    assert rollout.state() is UpdateState.PAUSED


# -- beginning anew ----------------------------------------------------------------------------


def test_a_new_spec_ends_the_update_before_it() -> None:
    rollout = Rollout()
    rollout.step(0)
    service = rollout.service
    third = with_image(service.spec, "app:3")
    rollout.view.put(replace(service, spec=third, spec_version=3, update_status=None))
    assert rollout.step(1) == [1], "its task does not run yet"
    assert rollout.wanted(1) == [3]
    status = rollout.service.update_status
    assert status is not None
    assert status.started_at == at(1)


def test_an_update_asked_for_again_counts_the_slots_that_are_down() -> None:
    """Same tasks, other words: what is down for the update before is down."""
    rollout = Rollout()
    rollout.step(0)
    service = rollout.service
    rollout.view.put(replace(service, update_status=None))
    assert rollout.step(1) == []
    assert rollout.state() is UpdateState.UPDATING
    labelled = replace(service.spec, labels={"a": "b"})
    rollout.view.put(replace(service, spec=labelled, spec_version=3, update_status=None))
    assert rollout.step(2) == []
    rollout.run(3, 1)
    assert rollout.step(3) == [2]


def test_what_the_new_task_waited_for_is_waited_for_on() -> None:
    rollout = Rollout()
    rollout.step(0)
    service = rollout.service
    rollout.view.put(replace(service, spec=with_image(service.spec, "app:3"), spec_version=3))
    rollout.step(1)
    assert rollout.new(1).replaces == "old1"
    assert rollout.new(1).desired_state is S.READY


def test_a_rollback_that_the_user_asked_for() -> None:
    rollout = Rollout(config(3), config(2))
    status = UpdateStatus(state=UpdateState.ROLLBACK_STARTED, started_at=at(0), message="asked")
    rollout.view.put(replace(rollout.service, update_status=status))
    assert rollout.step(1) == [1, 2]
    assert rollout.service.update_status == status
    idle = Rollout(change=lambda spec: spec)
    idle.view.put(replace(idle.service, update_status=status))
    idle.step(1)
    assert idle.state() is UpdateState.ROLLBACK_COMPLETED


def test_a_paused_update_goes_on_when_the_user_says_so() -> None:
    rollout = Rollout()
    rollout.step(0)
    failed_at(rollout, 1, 1)
    rollout.view.put(replace(rollout.service, update_status=None))
    assert rollout.step(2) == [2], "slot 1 has its task of this version"
    assert rollout.state() is UpdateState.UPDATING


def test_a_slot_that_was_over_by_policy_is_updated_too() -> None:
    rollout = Rollout(restart=RestartPolicy(condition="none"), replicas=1)
    task = rollout.new(1)
    over = replace(task.status, state=S.COMPLETE)
    rollout.view.put(replace(task, status=over, desired_state=S.SHUTDOWN))
    assert rollout.step(0) == [1]
    rollout.report(1, S.COMPLETE, 30)
    rollout.view.put(replace(rollout.new(1), desired_state=S.SHUTDOWN))
    rollout.step(30)
    assert rollout.state() is UpdateState.PAUSED


def test_a_removed_slot_and_a_task_that_still_stops() -> None:
    rollout = Rollout()
    rollout.view.put(replace(rollout.new(2), desired_state=S.REMOVE))
    rollout.view.put(replace(rollout.new(1), desired_state=S.SHUTDOWN))
    assert rollout.step(0) == [3], "slots 1 and 2 are the mode's to fill"


def test_a_dead_task_is_replaced_without_waiting() -> None:
    rollout = Rollout(replicas=1)
    rollout.report(1, S.FAILED, 0)
    rollout.view.put(
        make_task("before", slot=1, desired_state=S.SHUTDOWN, created=-1, spec_version=1)
    )
    assert rollout.step(0) == [1]
    assert rollout.new(1).replaces == "before"


# -- global services ---------------------------------------------------------------------------


def everywhere(nodes: Sequence[Node], config_: UpdateConfig, *ports: PortConfig) -> Tables:
    spec = make_spec(mode=ServiceMode(global_=Global()), update=config_, ports=ports)
    old = make_service("s1", spec)
    tasks = [make_task(f"old-{n.id}", old, slot=0, node=n.id) for n in nodes]
    new = replace(old, spec=with_image(spec, "app:2"), spec_version=2)
    return tables(new, *nodes, *tasks)


def test_a_global_service_is_updated_on_the_nodes_that_take_tasks() -> None:
    nodes = [
        make_node("n1"),
        make_node("n2", availability="pause"),
        make_node("n3", state=NodeState.DOWN),
        make_node("n4"),
    ]
    view = everywhere(nodes, config(0))
    view.drop("n4")
    decision = update.decide(view, "s1", at(0), Ids())
    assert [(task.node_id, task.slot) for task in created(decision)] == [("n1", 0)]
    assert updated(decision)["old-n1"].desired_state is S.SHUTDOWN


def test_a_global_service_is_not_updated_where_it_may_have_no_task() -> None:
    """The service's mode would stop what the update makes, and that for ever."""
    view = everywhere([make_node("n1")], config(0))
    service = view.service(ServiceID("s1"))
    assert service is not None
    for constraints in (("node.labels.zone==a",), ("nonsense",)):
        template = replace(
            service.spec.task_template, placement=Placement(constraints=constraints)
        )
        view.put(replace(service, spec=replace(service.spec, task_template=template)))
        assert created(update.decide(view, "s1", at(0), Ids())) == []


def test_a_port_of_the_host_makes_start_first_stop_first_on_the_same_node() -> None:
    host = PortConfig(target_port=80, published_port=8080, publish_mode="host")
    free = PortConfig(target_port=80, publish_mode="host")
    for port, stops in ((host, True), (free, False)):
        view = everywhere([make_node("n1")], config(order="start-first"), port)
        decision = update.decide(view, "s1", at(0), Ids())
        assert ("old-n1" in updated(decision)) is stops


def test_progress_is_kept_in_the_service_alone() -> None:
    rollout = Rollout()
    rollout.step(0)
    progress = rollout.service.update
    assert progress == UpdateProgress(
        spec_version=2,
        total=3,
        slots=(UpdatedSlot(task=rollout.new(1).id, begun_at=at(0)),),
    )
