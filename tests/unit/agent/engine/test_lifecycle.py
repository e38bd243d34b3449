"""Removal: begun once, it is finished, whatever becomes of the one who asked."""

import asyncio
import random
from datetime import UTC, datetime
from pathlib import Path
from typing import cast

import pytest

from agent.engine.companions import Companions
from agent.engine.container import Container
from agent.engine.events import EventBus
from agent.engine.launching import Launcher
from agent.engine.lifecycle import Lifecycle
from agent.engine.records import Record
from agent.engine.registry import Registry
from agent.engine.removal import Removal
from agent.engine.seams import Images
from agent.runtime.runtime import Runtime
from agent.volumes import Volumes
from shoal.common.clock import SystemClock
from shoal.model.container import ContainerConfig, HostConfig
from shoal.model.errors import Conflict, Unavailable


class SlowLauncher:
    """Takes down when it is let, or fails."""

    def __init__(self) -> None:
        self.asked, self.let = asyncio.Event(), asyncio.Event()
        self.error: Exception | None = None

    async def take_down(self, container: Container) -> None:
        self.asked.set()
        await self.let.wait()
        if self.error is not None:
            raise self.error


class NoImages:
    async def release(self, owner: str) -> None:
        return


class Bench:
    """One ended container and who removes it."""

    def __init__(self, path: Path) -> None:
        clock = SystemClock()
        self.launcher = SlowLauncher()
        self.registry = Registry(random.Random(1))
        volumes = Volumes(path / "volumes", clock)
        self.lifecycle = Lifecycle(
            cast("Runtime", None),
            cast("Launcher", self.launcher),
            cast("Companions", None),
            Removal(self.registry, cast("Images", NoImages()), volumes),
            EventBus(clock),
            clock,
        )
        record = Record(
            id="c" * 64,
            name="one",
            created_at=datetime(2026, 11, 25, tzinfo=UTC),
            image_id="",
            config=ContainerConfig(),
            host_config=HostConfig(),
        )
        (path / "c").mkdir()
        self.container = Container(record, path / "c", path / "bundle")
        self.container.change_state(status="exited")
        self.registry.add(self.container)


async def test_a_removal_goes_on_when_its_caller_is_cancelled(tmp_path: Path) -> None:
    bench = Bench(tmp_path)
    async with bench.lifecycle:
        async with asyncio.TaskGroup() as group:
            call = group.create_task(bench.lifecycle.remove(bench.container))
            await bench.launcher.asked.wait()
            call.cancel()
        assert call.cancelled()
        with pytest.raises(Conflict, match="already in progress"):
            await bench.lifecycle.remove(bench.container)
        with bench.container.removal_waiter() as gone:
            bench.launcher.let.set()
            await gone
    assert len(bench.registry) == 0
    assert not (tmp_path / "c").exists()


async def test_a_removal_that_failed_can_be_tried_again(tmp_path: Path) -> None:
    bench = Bench(tmp_path)
    bench.launcher.let.set()
    async with bench.lifecycle:
        bench.launcher.error = Unavailable("device or resource busy")
        with pytest.raises(Unavailable, match="busy"):
            await bench.lifecycle.remove(bench.container)
        assert bench.container.state.status == "dead"
        with pytest.raises(Conflict, match="marked for removal and cannot be started"):
            await bench.lifecycle.start(bench.container)
        bench.launcher.error = None
        await bench.lifecycle.remove(bench.container)
    assert len(bench.registry) == 0
