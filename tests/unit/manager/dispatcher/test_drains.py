from typing import Any

from msgspec.structs import replace

from manager.dispatcher.drains import NOBODY, Drains, Found, Progress, Seat, Standing
from shoal.model.changes import Event
from shoal.model.ids import NodeID, TaskID
from shoal.model.objects import Applied, Task
from shoal.model.spec.service import EndpointSpec, PortConfig
from shoal.model.states import TaskState
from tests.unit.manager.allocator.clusters import network, service
from tests.unit.manager.dispatcher.test_networks import N1, N2, N3, Told, node, placed

M1, M2 = NodeID("m1"), NodeID("m2")
T1 = TaskID("t1")
STOPPED_AT = 50
PORT = PortConfig(protocol="tcp", target_port=80, published_port=8080)


class Cluster:
    """Task t1 of web runs on n1, t2 on n2, both on network a; n3 has none."""

    def __init__(self, **endpoint: Any) -> None:
        web = service("web", "a", **endpoint)
        self.told = Told(network("a"), web, placed(web, "t1", N1), placed(web, "t2", N2, 2))
        self.view = self.told.view
        self.view._revision = 90
        for name in ("t1", "t2"):
            self.told.move(name, TaskState.RUNNING)
        self.drains = Drains(M1, self.told.parts)
        self.seats = {n: Seat(M1, 10) for n in (N1, N2, N3)}
        self.mine = {n: Standing(49, 10) for n in (N1, N2, N3)}
        self.written = NOBODY

    def task(self) -> Task:
        found = self.view.task(T1)
        assert found is not None
        return found

    def stop(self, desired: TaskState = TaskState.SHUTDOWN, guard: int = STOPPED_AT) -> None:
        self.told.move(T1, TaskState.RUNNING, desired_state=desired, guard=guard)
        self.drains.note(Event(before=None, after=self.task()))

    def moves(self, name: NodeID, manager: NodeID, revision: int) -> None:
        """Its session is another manager's."""
        self.seats[name] = Seat(manager, revision)
        self.mine.pop(name, None)

    def says(self, manager: NodeID, revision: int, *tasks: TaskID) -> None:
        at = node(NodeID(f"n9-{manager}"))
        self.view.put(replace(at, id=manager, applied=Applied(revision=revision, tasks=tasks)))

    def look(self) -> Found:
        found = self.drains.look(self.view, self.mine, self.seats, self.written)
        self.written = found.record or self.written
        return found

    def drained(self) -> bool:
        return self.drains.drained(self.view, self.task())


def test_a_task_is_drained_once_the_other_nodes_of_its_network_have_applied_it() -> None:
    cluster = Cluster()
    cluster.stop()
    assert not cluster.drained()
    assert cluster.look() == Found()
    cluster.mine[N2] = Standing(STOPPED_AT, 10)  # n1 is alone with the task, n3 is not there
    assert cluster.look() == Found(nodes=frozenset({N1}))
    assert cluster.drained()
    assert cluster.look() == Found()


def test_every_node_may_lead_a_published_port_to_it() -> None:
    cluster = Cluster(ports=(PORT,))
    cluster.stop()
    for name in (N1, N2, N3):
        cluster.look()
        assert not cluster.drained()
        cluster.mine[name] = Standing(STOPPED_AT, 10)
    cluster.look()
    assert cluster.drained()


def test_a_port_of_the_service_as_it_is_now_counts_too() -> None:
    cluster = Cluster()
    web = cluster.view.service(cluster.task().service_id)
    assert web is not None
    cluster.told.put(replace(web, endpoint=replace(web.endpoint, ports=(PORT,))))
    cluster.stop()
    cluster.mine[N2] = Standing(STOPPED_AT, 10)
    cluster.look()
    assert not cluster.drained()  # n3


def test_a_port_that_the_service_has_just_given_up_counts_too() -> None:
    """Nodes may not have applied that yet, when the tasks are replaced a moment later."""
    cluster = Cluster()
    web = cluster.view.service(cluster.task().service_id)
    assert web is not None
    before = replace(web.spec, endpoint_spec=EndpointSpec(ports=(PORT,)))
    cluster.told.put(replace(web, previous_spec=before))
    cluster.stop()
    for name in (N2, N3):
        cluster.look()
        assert not cluster.drained()
        cluster.mine[name] = Standing(STOPPED_AT, 10)
    cluster.mine[N1] = Standing(STOPPED_AT, 10)
    cluster.look()
    assert cluster.drained()


def test_a_port_of_a_service_that_is_gone_counts_too() -> None:
    cluster = Cluster()
    web = cluster.view.service(cluster.task().service_id)
    assert web is not None
    published = replace(web, endpoint=replace(web.endpoint, ports=(PORT,)))
    cluster.drains.note(Event(before=published))
    cluster.told.drop(web.id)
    cluster.stop()
    cluster.mine[N2] = Standing(STOPPED_AT, 10)
    cluster.look()
    assert not cluster.drained()  # n3


def test_whom_nobody_can_reach_is_drained_at_once() -> None:
    cluster = Cluster()
    cluster.told.drop("t2")
    cluster.stop()
    assert cluster.drained()
    alone = placed(service("alone"), "t3", N1)
    cluster.told.put(alone)
    cluster.told.move("t3", TaskState.RUNNING, desired_state=TaskState.SHUTDOWN)
    found = cluster.view.task(TaskID("t3"))
    assert found is not None
    assert cluster.drains.drained(cluster.view, found)


def test_a_host_port_leads_nobody_elsewhere() -> None:
    cluster = Cluster(ports=(replace(PORT, publish_mode="host"),))
    cluster.told.drop("t2")
    cluster.stop()
    assert cluster.drained()


def test_who_never_ran_took_no_requests() -> None:
    cluster = Cluster()
    cluster.told.move(T1, TaskState.STARTING, desired_state=TaskState.SHUTDOWN)
    cluster.drains.note(Event(before=None, after=cluster.task()))
    assert not cluster.drains
    assert cluster.drained()


def test_a_task_that_is_to_run_is_not_drained() -> None:
    cluster = Cluster()
    assert not cluster.drained()
    assert not cluster.drains


def test_removal_after_shutdown_begins_nothing_anew() -> None:
    cluster = Cluster()
    cluster.stop()
    cluster.mine[N2] = Standing(STOPPED_AT, 10)
    cluster.look()
    cluster.stop(TaskState.REMOVE, guard=70)
    assert cluster.drained()


def test_an_ended_task_is_forgotten() -> None:
    cluster = Cluster()
    cluster.stop()
    cluster.told.move(T1, TaskState.SHUTDOWN, desired_state=TaskState.SHUTDOWN)
    cluster.drains.note(Event(before=None, after=cluster.task()))
    assert not cluster.drains
    cluster.stop()
    cluster.drains.note(Event(before=cluster.task(), after=None))
    assert not cluster.drains


def test_who_has_no_session_is_not_waited_for() -> None:
    cluster = Cluster()
    cluster.stop()
    del cluster.mine[N2]
    del cluster.seats[N2]
    assert cluster.look().nodes == {N1}


def test_a_stopping_task_whose_node_has_no_session_waits_for_one() -> None:
    cluster = Cluster()
    cluster.stop()
    cluster.mine[N2] = Standing(STOPPED_AT, 10)
    seat = cluster.seats.pop(N1)
    assert cluster.look() == Found()
    cluster.seats[N1] = seat
    assert cluster.look().nodes == {N1}


def test_sessions_of_another_manager_count_by_what_it_wrote() -> None:
    cluster = Cluster()
    cluster.moves(N2, M2, 20)
    cluster.stop()
    cluster.look()
    assert not cluster.drained()
    cluster.says(M2, 60)
    cluster.look()
    assert not cluster.drained()
    cluster.says(M2, 60, T1)
    assert cluster.look().nodes == {N1}


def test_what_a_manager_wrote_before_a_session_says_nothing_of_it() -> None:
    cluster = Cluster()
    cluster.moves(N2, M2, 61)
    cluster.says(M2, 60, T1)
    cluster.stop()
    cluster.look()
    assert not cluster.drained()
    cluster.says(M2, 61, T1)
    cluster.look()
    assert cluster.drained()


def test_a_session_that_is_being_opened_has_applied_nothing() -> None:
    cluster = Cluster()
    cluster.stop()
    cluster.mine[N2] = Standing(0, 0)
    cluster.look()
    assert not cluster.drained()


def test_for_other_managers_nodes_a_manager_writes_once_what_its_sessions_applied() -> None:
    cluster = Cluster()
    cluster.moves(N1, M2, 20)
    cluster.stop()
    assert cluster.look().record is None
    cluster.mine[N2] = Standing(STOPPED_AT, 10)
    assert cluster.look().record == Applied(revision=90, tasks=(T1,))
    assert cluster.look() == Found()
    cluster.mine[N2] = Standing(85, 80)  # it came back meanwhile: this was written after that
    assert cluster.look() == Found()
    cluster.view._revision = 99
    cluster.mine[N2] = Standing(97, 95)
    assert cluster.look().record == Applied(revision=99, tasks=(T1,))
    assert not cluster.drains.drained(cluster.view, cluster.task())  # not this one's to tell


def test_a_drained_task_whose_node_went_to_another_manager_is_vouched_for_there() -> None:
    cluster = Cluster()
    cluster.stop()
    cluster.mine[N2] = Standing(STOPPED_AT, 10)
    assert cluster.look().nodes == {N1}
    cluster.moves(N1, M2, 55)  # perhaps before it heard of it
    assert cluster.look().record == Applied(revision=90, tasks=(T1,))


def test_a_session_that_memory_does_not_show_yet_is_waited_for() -> None:
    cluster = Cluster()
    cluster.moves(N1, M2, 20)
    cluster.stop()
    cluster.mine[N2] = Standing(95, 93)
    assert cluster.look() == Found()


def test_a_manager_that_is_gone_is_not_waited_for() -> None:
    cluster = Cluster()
    cluster.moves(N2, M2, 20)
    cluster.stop()
    cluster.look()
    del cluster.seats[N2]  # its sessions' keys hung on its lease
    assert cluster.look().nodes == {N1}


def test_progress_is_the_revision_of_the_last_message_applied() -> None:
    progress = Progress()
    assert progress.reached(9, current=True) == 0
    progress.told(1, 10)
    progress.told(2, 20)
    progress.told(3, 30)
    assert progress.reached(40, current=True) == 0
    progress.applied(2)
    assert progress.reached(40, current=True) == 20
    progress.applied(3)
    assert progress.reached(40, current=False) == 30
    assert progress.reached(40, current=True) == 40


def test_progress_believes_only_what_can_be() -> None:
    progress = Progress()
    progress.told(1, 10)
    progress.applied(7)  # of the count before
    progress.applied(-1)
    assert progress.reached(40, current=True) == 0
    progress.applied(1)
    progress.told(1, 30)  # the whole set again
    assert progress.reached(40, current=True) == 10
    progress.applied(1)
    assert progress.reached(40, current=True) == 40


def test_progress_counts_a_set_in_several_messages_by_its_last() -> None:
    progress = Progress()
    progress.told(1, 10)
    progress.applied(1)
    progress.told(2, 0)
    progress.told(3, 20)
    progress.applied(2)
    assert progress.reached(40, current=True) == 10
    progress.applied(3)
    assert progress.reached(40, current=False) == 20
