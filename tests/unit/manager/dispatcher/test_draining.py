"""Several managers and slow nodes: nobody is drained too early, everybody in the end."""

import asyncio

import pytest
from msgspec.structs import replace

from manager.store.simulated import Faults
from shoal.model.ids import NodeID, TaskID
from shoal.model.objects import Endpoint
from shoal.model.spec.service import PortConfig
from shoal.model.states import TaskState
from tests.unit.manager.dispatcher.managers import BACK, Agent, World, until, world

pytestmark = pytest.mark.looptime

PORT = PortConfig(protocol="tcp", target_port=80, published_port=8080)


def time() -> float:
    return asyncio.get_running_loop().time()


async def spread(made: World) -> None:
    """n1 on m1 with t1, n2 on m2 with t22, n3 on m3 without a task."""
    for number, task in ((1, "t1"), (2, "t22"), (3, "")):
        await made.add(Agent(f"n{number}"), f"m{number}")
        if task:
            await made.task(task, f"n{number}", BACK)


async def test_a_slow_node_of_another_manager_is_waited_for() -> None:
    async with world(1, 3) as made:
        await spread(made)
        host, client = made.agents["n1"], made.agents["n2"]
        task = TaskID("t1")
        await until(lambda: client.serves(task))
        client.delay = lambda: 2.0
        began = time()
        await made.desire(task, TaskState.SHUTDOWN)
        await until(lambda: task in host.drained_at)
        assert not client.serves(task)
        assert 2.0 <= host.drained_at[task] - began < 2.2
        assert await made.written() == 1  # by m2, which alone has a session that counts


async def test_a_published_port_waits_for_all_nodes() -> None:
    async with world(2, 3) as made:
        await spread(made)
        task = await made.task("t333", "n1", ports=(PORT,))
        await until(lambda: all(agent.serves(task) for agent in made.agents.values()))
        for number, seconds in ((1, 0.5), (2, 1.0), (3, 1.5)):
            made.agents[f"n{number}"].delay = lambda seconds=seconds: seconds  # type: ignore[misc]
        began = time()
        await made.desire(task, TaskState.SHUTDOWN)
        await until(lambda: task in made.agents["n1"].drained_at)
        assert 1.5 <= made.agents["n1"].drained_at[task] - began < 1.7
        assert await made.written() == 2


async def test_a_port_newer_than_the_task_is_taken_back_from_all_nodes() -> None:
    """The task's own spec has no port yet; its service's leads to it all the same."""
    async with world(2, 2) as made:
        await spread_two(made)
        task = await made.task("t333", "n1")
        service = made.memory.service(made.found(task).service_id)
        assert service is not None
        await made.commit(replace(service, endpoint=Endpoint(ports=(PORT,))), new=False)
        await until(lambda: all(agent.serves(task) for agent in made.agents.values()))
        await made.desire(task, TaskState.SHUTDOWN)
        await until(lambda: task in made.agents["n1"].drained_at)
        assert not any(agent.serves(task) for agent in made.agents.values())


async def spread_two(made: World) -> None:
    """n1 on m1 and n2 on m2, without a task."""
    for number in (1, 2):
        await made.add(Agent(f"n{number}"), f"m{number}")


async def test_a_node_whose_session_ends_is_no_longer_waited_for() -> None:
    async with world(3, 2) as made:
        await made.add(Agent("n1"), "m1")
        await made.add(Agent("n2"), "m2")
        task = await made.task("t1", "n1", BACK)
        await made.task("t22", "n2", BACK)
        host, client = made.agents["n1"], made.agents["n2"]
        await until(lambda: client.serves(task))
        client.stuck.clear()
        await made.desire(task, TaskState.SHUTDOWN)
        await asyncio.sleep(10)
        assert task not in host.drained_at
        client.hang_up()
        await until(lambda: task in host.drained_at)


async def test_a_dead_managers_sessions_are_no_longer_waited_for() -> None:
    async with world(4, 2) as made:
        await made.add(Agent("n1"), "m1")
        await made.add(Agent("n2"), "m2")
        task = await made.task("t1", "n1", BACK)
        await made.task("t22", "n2", BACK)
        await until(lambda: made.agents["n2"].serves(task))
        made.agents["n2"].stuck.clear()
        await made.desire(task, TaskState.SHUTDOWN)
        await asyncio.sleep(1)
        made.managers["m2"].die(made.etcd)
        await until(lambda: task in made.agents["n1"].drained_at)


async def test_a_session_that_is_doubted_ends_and_the_next_one_counts() -> None:
    async with world(5, 2) as made:
        await made.add(Agent("n1"), "m1")
        manager, agent = made.managers["m1"], made.agents["n1"]
        session = manager.sessions.of(agent.node)
        node = made.memory.node(agent.node)
        assert session is not None
        assert node is not None
        await made.commit(replace(node, doubted=session.id), new=False)
        await until(session.ended.is_set)
        agent.hang_up()
        await made.connect(agent, "m1")
        await asyncio.sleep(1)
        after = manager.sessions.of(agent.node)
        assert after is not None
        assert not after.ended.is_set()


async def test_a_node_that_changes_its_manager_is_waited_for_there() -> None:
    async with world(5, 3) as made:
        await made.add(Agent("n1"), "m1")
        await made.add(Agent("n2"), "m2")
        await made.add(Agent("n4"), "m3")
        task = await made.task("t1", "n1", BACK)
        await made.task("t22", "n2", BACK)
        await made.task("t4444", "n4", BACK)
        host, slow, moving = (made.agents[name] for name in ("n1", "n2", "n4"))
        await until(lambda: moving.serves(task) and slow.serves(task))
        slow.stuck.clear()
        moving.stuck.clear()
        await made.desire(task, TaskState.SHUTDOWN)
        await asyncio.sleep(1)
        moving.hang_up()
        await asyncio.sleep(1)
        await made.connect(moving, "m2")
        slow.stuck.set()
        await asyncio.sleep(5)
        assert moving.serves(task)
        assert task not in host.drained_at
        moving.stuck.set()
        await until(lambda: task in host.drained_at)
        assert not moving.serves(task)


async def test_a_stopping_tasks_node_may_change_its_manager() -> None:
    async with world(6, 3) as made:
        await spread(made)
        host, client, task = made.agents["n1"], made.agents["n2"], TaskID("t1")
        await until(lambda: client.serves(task))
        client.stuck.clear()
        await made.desire(task, TaskState.SHUTDOWN)
        await asyncio.sleep(1)
        host.hang_up()
        await asyncio.sleep(1)
        await made.connect(host, "m2")
        await asyncio.sleep(1)
        assert task not in host.drained_at
        client.stuck.set()
        await until(lambda: task in host.drained_at)
        assert await made.written() == 0  # one manager has both sessions by now


async def test_a_write_whose_answer_is_lost_is_done_again() -> None:
    async with world(8, 2) as made:
        await made.add(Agent("n1"), "m1")
        await made.add(Agent("n2", lambda: 1.0), "m2")
        task = await made.task("t1", "n1", BACK)
        await made.task("t22", "n2", BACK)
        await until(lambda: made.agents["n2"].serves(task))
        await made.desire(task, TaskState.SHUTDOWN)
        await asyncio.sleep(0.9)
        made.etcd.faults = Faults(lost_request=1.0)
        await asyncio.sleep(0.5)
        assert task not in made.agents["n1"].drained_at
        made.etcd.faults = Faults()
        await until(lambda: task in made.agents["n1"].drained_at)


async def test_nothing_is_judged_or_written_while_nothing_stops() -> None:
    async with world(7, 3) as made:
        await spread(made)
        await until(lambda: made.agents["n2"].serves(TaskID("t1")))
        for number in range(20):
            await made.task(f"x{number:030}", "n3", BACK)
        never_ran = await made.task("y", "n3")
        await made.desire(never_ran, TaskState.SHUTDOWN)
        await made.end(never_ran)
        await asyncio.sleep(30)
        looks = [manager.draining.looks for manager in made.managers.values()]
        assert sum(looks) <= 2 * len(looks)  # for `y`, which nobody could reach
        assert await made.written() == 0


@pytest.mark.parametrize("seed", range(12))
async def test_by_chance_nobody_is_drained_too_early_and_all_are_in_the_end(seed: int) -> None:
    async with world(seed, 3) as made:
        chance = made.chance
        made.etcd.faults = Faults(
            request=(0.0, 0.01), answer=(0.0, 0.02), lag=(0.0, 0.2), broken_watch=0.02
        )
        since: dict[NodeID, float] = {}
        stopped: dict[TaskID, float] = {}
        early: list[tuple[str, str]] = []

        def drained(host: Agent, task: TaskID) -> None:
            """All others that have had their session since before the stop are done with it."""
            for agent in made.agents.values():
                steady = agent.manager is not None and since[agent.node] < stopped[task]
                if agent is not host and steady and agent.serves(task):
                    early.append((agent.node, task))

        for number in range(1, 7):
            agent = Agent(f"n{number}", lambda: chance.uniform(0, 1.5))
            agent.on_drained = drained
            await made.add(agent, f"m{chance.randint(1, 3)}")
            since[agent.node] = time()
        tasks = []
        for number in range(12):
            node = f"n{chance.randint(1, 6)}"
            port = PortConfig(protocol="tcp", target_port=80, published_port=8080 + number)
            ports = (port,) if chance.random() < 0.3 else ()
            name = f"t{number:02}" + "x" * number
            tasks.append(await made.task(name, node, BACK, ports=ports))
        await asyncio.sleep(5)
        for task in tasks[:8]:
            stopped[task] = time()
            await made.desire(task, TaskState.SHUTDOWN)
            await asyncio.sleep(chance.uniform(0, 1))
            if chance.random() < 0.5:
                mover = made.agents[f"n{chance.randint(1, 6)}"]
                mover.hang_up()
                await asyncio.sleep(chance.uniform(0, 0.5))
                since[mover.node] = time()
                await made.connect(mover, f"m{chance.randint(1, 3)}")
        await until(
            lambda: all(
                task in made.agents[made.found(task).node_id or ""].drained_at
                for task in tasks[:8]
            ),
            60,
        )
        assert not early
        assert await made.written() <= 3 * 8 * 3  # a manager and task, and once more a move


async def test_heartbeats_and_acknowledgements_put_nothing_together_anew() -> None:
    async with world(8, 3) as made:
        await spread(made)
        await until(lambda: made.agents["n2"].serves(TaskID("t1")))
        await asyncio.sleep(2)
        before = [manager.looks for manager in made.managers.values()]
        await asyncio.sleep(30)
        assert [manager.looks for manager in made.managers.values()] == before
        await made.desire(TaskID("t1"), TaskState.SHUTDOWN)
        await until(lambda: not made.agents["n2"].serves(TaskID("t1")))
