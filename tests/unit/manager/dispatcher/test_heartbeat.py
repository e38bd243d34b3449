"""How often agents are heard is a setting of the cluster, and open sessions follow it."""

import asyncio

import pytest
from msgspec.structs import replace

from shoal.model.objects import Cluster
from shoal.model.spec.cluster import ClusterSpec, DispatcherConfig
from tests.unit.manager.dispatcher.managers import Agent, World, until, world

pytestmark = pytest.mark.looptime
SECOND = 1_000_000_000


async def set_heartbeat(of: World, seconds: int) -> None:
    cluster = of.memory.cluster()
    assert isinstance(cluster, Cluster)
    spec = ClusterSpec(dispatcher=DispatcherConfig(heartbeat_period=seconds * SECOND))
    await of.commit(replace(cluster, spec=spec), new=False)


async def test_sessions_follow_the_setting() -> None:
    async with world(1, 1) as made:
        agent = Agent("n1")
        await made.add(agent, "m1")
        session = made.managers["m1"].sessions.of(agent.node)
        assert session is not None
        assert (agent.heartbeat, session.patience) == (1, 2)
        await set_heartbeat(made, 20)
        await until(lambda: agent.heartbeat == 20)
        await asyncio.sleep(100)  # it speaks every 20 s, and that is enough
        assert not session.ended.is_set()
        await set_heartbeat(made, 3)
        await until(lambda: agent.heartbeat == 3)
        assert session.patience == 6


async def test_an_agent_that_is_slower_than_the_setting_is_silent() -> None:
    async with world(1, 1) as made:
        agent = Agent("n1")
        await made.add(agent, "m1")
        session = made.managers["m1"].sessions.of(agent.node)
        assert session is not None
        await set_heartbeat(made, 20)
        await until(lambda: agent.heartbeat == 20)
        await asyncio.sleep(5)
        began = asyncio.get_running_loop().time()
        await set_heartbeat(made, 1)
        await until(lambda: session.ended.is_set())  # its next word would come in 15 s
        assert asyncio.get_running_loop().time() - began < 3
