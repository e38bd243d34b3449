"""A member that was removed while it was away finds out, and only then gives its data up."""

import asyncio
import random
from collections.abc import Iterator
from pathlib import Path

import pytest

from manager.enrolment import STANDING_SECONDS, Forgotten, until_forgotten
from manager.member import Admission, Member, PeerTLS
from manager.store.simulated import SimulatedEtcd
from shoal.common.config import HostConfig
from shoal.common.host_control import Pids, Reply
from shoal.model.errors import ClusterError, PermissionDenied, Unavailable
from shoal.model.ids import ClusterID, NodeID

pytestmark = pytest.mark.looptime


class Others:
    """The managers that are in: what they say of this one's standing, one word after another.

    It also stands for the host, which is asked nothing here.
    """

    def __init__(self, *said: bool | ClusterError) -> None:
        self._said: Iterator[bool | ClusterError] = iter(said)

    async def holds(self, peer_url: str) -> bool:
        assert peer_url == "https://10.0.0.1:2384"
        answer = next(self._said)
        if isinstance(answer, ClusterError):
            raise answer
        return answer

    async def add_learner(self, name: str, peer_url: str) -> Admission:
        raise AssertionError("not asked here")

    async def promote(self, member: int) -> None:
        raise AssertionError("not asked here")

    async def start_etcd(self, *_: object, **__: object) -> Reply:
        raise AssertionError("not asked here")

    async def stop_etcd(self, *, purge_state: bool) -> Reply:
        raise AssertionError("not asked here")

    async def status(self) -> Reply:
        return Reply(number=0, pids=Pids(1))


def member(state: Path, others: Others, *, data: bool) -> Member:
    config = HostConfig(state=str(state), address="10.0.0.1", etcd_port=2384)
    if data:
        (state / "etcd" / "data" / "member").mkdir(parents=True)
    kv = SimulatedEtcd(random.Random(1)).client()
    tls = PeerTLS(cert="", key="", ca="")
    return Member(config, NodeID("m1"), ClusterID("c"), tls, others, kv)


async def test_it_ends_when_the_others_do_not_hold_it(tmp_path: Path) -> None:
    """Silence, and a refusal because it is no manager any more, mean nothing yet."""
    others = Others(Unavailable("no quorum"), PermissionDenied("a worker"), True, False)
    began = asyncio.get_running_loop().time()
    with pytest.raises(Forgotten):
        await until_forgotten(member(tmp_path, others, data=True), others, lambda: False)
    assert asyncio.get_running_loop().time() - began == pytest.approx(4 * STANDING_SECONDS)


@pytest.mark.parametrize(("healthy", "data"), [(True, True), (False, False)])
async def test_nobody_is_asked_while_all_is_well_or_nothing_is_there(
    tmp_path: Path, healthy: bool, data: bool
) -> None:
    others = Others()
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(10 * STANDING_SECONDS):
            await until_forgotten(member(tmp_path, others, data=data), others, lambda: healthy)
