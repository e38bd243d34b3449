"""A person's container on a cluster network: the agent's calls against a real dispatcher."""

import asyncio
import random
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from msgspec.structs import replace

from agent.attaching import AttachmentClient, Wish
from agent.journal import Journal
from agent.line import dialled
from agent.membership import ClusterAgent
from agent.report import Reports
from agent.runtime.fake import FakeHost
from agent.swarm import HostCluster
from agent.worker import Worker
from manager.loops.loop import ControlLoop
from manager.loops.table import TABLE
from manager.store.commit import Commit
from shoal.common.certificates import Role
from shoal.common.config import HostConfig
from shoal.common.identity import CurrentIdentity, IdentityStore
from shoal.common.known_managers import save_managers
from shoal.common.supervise import stoppable_group
from shoal.model.assignment import ManagerAddress
from shoal.model.changes import Create
from shoal.model.errors import NotFound, PermissionDenied, Unavailable
from shoal.model.ids import NetworkID, NodeID, TaskID
from shoal.model.objects import Network, NodeReport
from shoal.model.spec.network import NetworkSpec
from tests.integration.agent.cluster import CLOCK, Lab, until
from tests.integration.agent.test_membership import Network as Wires
from tests.integration.agent.test_membership import Payloads

pytestmark = pytest.mark.timeout(60)

ROWS = tuple(row for row in TABLE if row.name in ("networks", "attachments", "orphans"))
WISH = Wish(network="back", container_id="c" * 64, container_name="alice", aliases=("db",))


@pytest.fixture
async def lab() -> AsyncIterator[Lab]:
    """A cluster with an attachable network, and a leader that gives addresses."""
    lab, ready = Lab(), asyncio.Event()
    commit = Commit(lab.etcd.client(), lab.memory, lab.ids)
    leader = ControlLoop(ROWS, lab.memory, commit, CLOCK, lab.ids)
    loop = asyncio.get_running_loop()
    # A fixture begins and ends in different tasks, which no TaskGroup allows.
    feeding = loop.create_task(lab.feed(ready))
    await ready.wait()
    await lab.begin()
    leading = loop.create_task(leader.run())
    spec = NetworkSpec(name="back", driver="overlay", scope="swarm", attachable=True)
    closed = replace(spec, name="closed", attachable=False)
    await lab.commit(
        Create(Network(id=NetworkID("back" * 6), spec=spec)),
        Create(Network(id=NetworkID("clos" * 6), spec=closed)),
    )
    yield lab
    leading.cancel()
    feeding.cancel()
    await asyncio.wait([leading, feeding])


class Host:
    """A node with its place in the cluster, by fake containers and wires."""

    def __init__(self, lab: Lab, state: Path) -> None:
        self.node = NodeID(lab.ids.new())
        self.current = CurrentIdentity(lab.identity(self.node, Role.WORKER))
        self.runs = FakeHost(CLOCK)
        self.state = state
        self.known: tuple[ManagerAddress, ...] = ()
        self.config = HostConfig(state=str(state), run=str(state), address="127.0.0.1")

    def cluster(self) -> HostCluster:
        """The host as it is after a start of the agent."""
        IdentityStore(self.state / "identity").save(self.current.get())
        return HostCluster(self.config, None, self._make, CLOCK, random.Random(1))

    def _make(
        self, host: object, current: object, managers: object, told: object
    ) -> ClusterAgent:
        reports = Reports()
        worker = Worker(
            Journal(self.state),
            self.runs,
            Payloads(),
            Wires(),
            reports,
            CLOCK,
            random.Random(4),
        )
        return ClusterAgent(
            self.current,
            worker,
            dialled,
            self.known or managers,  # type: ignore[arg-type]
            lambda: NodeReport(addr="127.0.0.1"),
            random.Random(5),
            told,  # type: ignore[arg-type]
        )


@pytest.mark.parametrize(
    ("role", "asked"),
    [(Role.WORKER, ["10.0.0.7:2377"]), (Role.MANAGER, ["10.0.0.7:2377", "127.0.0.1:2377"])],
)
async def test_a_host_that_was_never_told_of_managers_asks_where_it_came_in(
    lab: Lab, tmp_path: Path, role: Role, asked: list[str]
) -> None:
    host = Host(lab, tmp_path)
    host.current = CurrentIdentity(lab.identity(host.node, role))
    save_managers(str(tmp_path), ["10.0.0.7:2377"])
    cluster = host.cluster()
    await cluster.restore()
    assert cluster.agent is not None
    assert sorted(cluster.agent.manager_addresses()) == asked


async def test_a_place_is_asked_for_known_and_given_back(lab: Lab, tmp_path: Path) -> None:
    host = Host(lab, tmp_path)
    await lab.add_node(host.node)
    async with lab.manager() as (manager, _):
        nowhere = ManagerAddress(node_id=NodeID("x"), address="127.0.0.1:1")
        host.known = (nowhere, manager)
        cluster = host.cluster()
        await cluster.restore()
        assert cluster.agent is not None
        async with stoppable_group() as group:
            group.start(cluster.agent.run(), name="agent")
            place = await cluster.attach_network(WISH)
            assert place.network.name == "back"
            assert place.place.addresses[0].endswith("/24")
            assert place.place.aliases == ("db",)
            (endpoint,) = cluster.told().endpoints.values()
            assert endpoint.names == ("alice", "c" * 12, "db")
            assert cluster.places() == {place.task: "c" * 64}
            assert not host.runs.containers  # a person's container is not run as a task
            again = await cluster.attach_network(WISH)
            assert again == place
            with pytest.raises(PermissionDenied, match="not manually attachable"):
                await cluster.attach_network(replace(WISH, network="closed"))
            with pytest.raises(NotFound):
                await cluster.attach_network(replace(WISH, network="nosuch"))
            await cluster.detach_network(place.task)
            await cluster.detach_network(place.task)
            await until(lambda: not cluster.places())
            await until(lambda: not cluster.told().networks)
            group.stop()


async def test_a_restarted_agent_finds_its_places_and_asks_again(
    lab: Lab, tmp_path: Path
) -> None:
    host = Host(lab, tmp_path)
    await lab.add_node(host.node)
    async with lab.manager() as (manager, _):
        host.known = (manager,)
        first = host.cluster()
        await first.restore()
        assert first.agent is not None
        async with stoppable_group() as group:
            group.start(first.agent.run(), name="agent")
            place = await first.attach_network(WISH)
            group.stop()
        second = host.cluster()
        await second.restore()
        assert second.agent is not None
        assert second.places() == {place.task: "c" * 64}  # of the journal
        async with stoppable_group() as group:
            group.start(second.agent.run(), name="agent")
            assert await second.attach_network(WISH) == place
            group.stop()


async def test_without_any_manager_it_is_said(lab: Lab) -> None:
    current = CurrentIdentity(lab.identity(NodeID("n"), Role.WORKER))
    client = AttachmentClient(current, lambda: ("127.0.0.1:1",))
    with pytest.raises(Unavailable):
        await client.attach(WISH)
    with pytest.raises(Unavailable):
        await AttachmentClient(current, tuple).detach(TaskID("t"))
