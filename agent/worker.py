"""From what this node is told to running task managers, dependencies and network.

Owns the journal: a new set is on disk before it acts, statuses follow at the next occasion.
`restore` brings back what the journal holds, so that containers of a restarted agent are
adopted and tasks go on without any manager; `run` works until cancelled. The managers are
talked to by `agent.session`.
"""

import asyncio
import random
from collections.abc import Iterable, Mapping
from typing import Protocol

import structlog
from msgspec.structs import replace

from agent.assignments import NOTHING
from agent.journal import Entry, Journal, without_secrets
from agent.report import Reports
from agent.runtime.controller import Controller
from agent.task import machine
from agent.task.manager import TaskManager
from shoal.common.backoff import Backoff
from shoal.common.clock import Clock
from shoal.model.assignment import (
    AssignedNetwork,
    AssignedTask,
    Assignments,
    IngressSet,
    MeshPart,
    NetworkEndpoint,
    NetworkService,
    Stamp,
)
from shoal.model.errors import ClusterError
from shoal.model.ids import NetworkID, ServiceID, TaskID
from shoal.model.objects import TaskStatus
from shoal.model.states import TaskState

_log = structlog.get_logger(__name__)

NETWORK_RETRY_SECONDS = 1.0
AGAIN = Backoff(first=1.0, cap=60.0)
STATUSES_SECONDS = 0.25
"""Statuses are written so much later, many at once: a step whose status is lost is repeated."""


class Controllers(Protocol):
    """Where controllers come from."""

    def make(self, task: AssignedTask) -> Controller:
        """A controller for one task; it finds the task's container if there is one."""
        ...

    def owned(self) -> Iterable[TaskID]:
        """The tasks that have a container on this host."""
        ...


class ClusterNetwork(Protocol):
    """This host's part in the cluster's network. Errors are `shoal.model.errors` classes."""

    async def set_mesh(self, mesh: MeshPart) -> None:
        """Join the mesh as told; an empty subnet is no mesh. Idempotent."""
        ...

    async def set_networks(self, told: Assignments) -> None:
        """Have the cluster networks of this host's containers as told; so it is on return.

        Networks, endpoints and services of these assignments count. Idempotent.
        """
        ...

    async def set_ingress(self, ingress: IngressSet) -> None:
        """Publish exactly these ports. Idempotent."""
        ...


class Payloads(Protocol):
    """Where controllers find what never goes to disk: secrets, configs, credentials."""

    def update(self, told: Assignments) -> None:
        """A manager's word: these are all there are now."""
        ...


class Worker:
    """All tasks of this node."""

    def __init__(
        self,
        journal: Journal,
        controllers: Controllers,
        payloads: Payloads,
        network: ClusterNetwork,
        reports: Reports,
        clock: Clock,
        chance: random.Random,
    ) -> None:
        self._journal = journal
        self._controllers = controllers
        self._payloads = payloads
        self._network = network
        self._reports = reports
        self._clock = clock
        self._chance = chance
        self._entry = Entry()
        self._assignments = NOTHING
        self._statuses: dict[TaskID, TaskStatus] = {}
        self._managers: dict[TaskID, TaskManager] = {}
        self._unsaved = asyncio.Event()
        self._saving = asyncio.Lock()
        self._network_wanted = asyncio.Event()
        self._networking = asyncio.Lock()
        self._mesh: MeshPart | None = None
        self._networks: _Networks | None = None
        self._ingress: IngressSet | None = None
        self._begun: asyncio.Queue[TaskManager] = asyncio.Queue()
        self._removed: set[TaskID] = set()
        self._untaken = False
        self._ended = asyncio.Event()
        self._swept = False

    @property
    def reports(self) -> Reports:
        """What its tasks report."""
        return self._reports

    @property
    def stamp(self) -> Stamp:
        """The greatest one applied."""
        return self._entry.stamp

    @property
    def assignments(self) -> Assignments:
        """What this node was told last."""
        return self._assignments

    @property
    def settled(self) -> bool:
        """Whether the kernel's network is as this node was told last."""
        told = self._assignments
        return (
            told.mesh == self._mesh
            and self._networks is not None
            and _same(self._networks, _networks(told))
            and told.ingress == self._ingress
        )

    def statuses(self) -> dict[TaskID, TaskStatus]:
        """The newest status of each task."""
        return dict(self._statuses)

    # -- what is told
    # ------------------------------------------------------------------

    async def restore(self) -> None:
        """Take up the journal: network and tasks. Before the engine adopts its containers."""
        entry = await asyncio.to_thread(self._journal.load)
        self._entry = entry
        self._statuses = dict(entry.statuses)
        self._assignments = entry.assignments
        await self._connect()
        self._take_tasks(entry.assignments)

    async def apply(self, stamp: Stamp, told: Assignments) -> None:
        """Act on a new set. It is in the journal when this returns, and under way."""
        self._assignments = told
        self._payloads.update(told)
        self._entry = replace(self._entry, stamp=stamp)
        await self._save()
        await self._connect()  # first the networks, then the tasks on them
        self._take_tasks(told)
        if not self._swept:
            self._swept = True
            self._remove_strays()

    async def release(self) -> None:
        """Leave the cluster: forget mesh, ports and journal.

        First `remove_all`, while `run` still works; then end `run`, then this.
        """
        self._entry, self._assignments, self._statuses = Entry(), NOTHING, {}
        self._removed.clear()
        self._payloads.update(NOTHING)
        await self._network.set_ingress(IngressSet())
        await self._network.set_networks(NOTHING)
        await self._network.set_mesh(MeshPart())
        self._mesh, self._networks, self._ingress = None, None, None
        await asyncio.to_thread(self._journal.remove)

    async def remove_all(self) -> None:
        """Stop and remove every task of this node; returns when none is left."""
        self._assignments = NOTHING
        self._take_tasks(NOTHING)
        while self._managers:
            self._ended.clear()
            await self._ended.wait()

    def _take_tasks(self, told: Assignments) -> None:
        self._untaken = False
        for task in told.tasks.values():
            try:
                self._take(task)
            except Exception as error:  # noqa: BLE001 - trouble of one task stays with it
                self._failed(task.id, error)
                self._untaken = True
                self._network_wanted.set()
        for key, manager in self._managers.items():
            if key not in told.tasks:
                manager.update(_leaving(manager.task))
        for key in self._removed - told.tasks.keys():
            self._removed.discard(key)
            self._forget(key)

    def _take(self, task: AssignedTask) -> None:
        if task.attached:
            return  # a person's container: the engine's to run
        manager = self._managers.get(task.id)
        if manager is not None:
            manager.update(task)
        elif task.id not in self._removed:
            self._begin(task)

    def _failed(self, task: TaskID, error: Exception) -> None:
        """Log an unforeseen error, and say it to users."""
        _log.error("task failed unforeseen", task=task, exc_info=error)
        now = self._clock.now()
        sentence = f"will be tried again: internal error: {error!r}"
        status = self._statuses.get(task) or machine.accepted(now)
        if status.message != sentence:
            self._on_status(
                task, replace(status, timestamp=now, message=sentence, err=sentence)
            )

    def _remove_strays(self) -> None:
        """Remove containers of tasks that neither journal nor managers know, once."""
        for key in self._controllers.owned():
            if key not in self._assignments.tasks and key not in self._managers:
                _log.warning("container of an unknown task", task=key)
                stray = AssignedTask(id=key, service_id=ServiceID(""), service_name="", name="")
                try:
                    self._begin(_leaving(stray))
                except Exception as error:  # noqa: BLE001 - trouble of one stays with it
                    self._failed(key, error)

    def _begin(self, task: AssignedTask) -> None:
        known = self._statuses.get(task.id)
        status = known or machine.accepted(self._clock.now())
        manager = TaskManager(
            task,
            status,
            self._controllers.make(task),
            self._on_status,
            self._clock,
            self._chance,
        )
        self._managers[task.id] = manager
        self._on_status(task.id, status)
        self._begun.put_nowait(manager)

    def _on_status(self, task: TaskID, status: TaskStatus) -> None:
        self._statuses[task] = status
        self._reports.put(task, status)
        self._unsaved.set()

    # -- what runs
    # ---------------------------------------------------------------------

    async def run(self) -> None:
        """Run all tasks until cancelled; cancelling stops no container.

        Run again, it goes on with every task it had: leaving ends one run and begins another.
        """
        self._begun = asyncio.Queue()
        for known in self._managers.values():
            self._begun.put_nowait(known)
        async with asyncio.TaskGroup() as group:
            group.create_task(self._keep_journal(), name="journal")
            group.create_task(self._keep_network(), name="cluster network")
            while True:
                manager = await self._begun.get()
                group.create_task(self._run_task(manager), name=f"task {manager.task.id}")

    async def _run_task(self, manager: TaskManager) -> None:
        task = manager.task.id
        delays = AGAIN.delays(self._chance)
        while True:
            try:
                await manager.run()
                break
            except Exception as error:  # noqa: BLE001 - trouble of one task stays with it
                self._failed(task, error)
                await asyncio.sleep(next(delays))
        del self._managers[task]
        if task in self._assignments.tasks:
            self._removed.add(task)  # its last status stands until it is told no more
        else:
            self._forget(task)
        self._ended.set()

    def _forget(self, task: TaskID) -> None:
        self._statuses.pop(task, None)
        self._reports.forget(task)
        self._unsaved.set()

    async def _keep_journal(self) -> None:
        while True:
            await self._unsaved.wait()
            try:
                await asyncio.sleep(STATUSES_SECONDS)
                await self._save()
            except asyncio.CancelledError:
                await self._save()  # nothing is left unsaved by an end in order
                raise
            except ClusterError as error:
                _log.error("journal not written", reason=str(error))
                await asyncio.sleep(NETWORK_RETRY_SECONDS)
                self._unsaved.set()

    async def _save(self) -> None:
        async with self._saving:  # two writers would take each other's temporary file
            self._unsaved.clear()
            entry = replace(
                self._entry,
                assignments=without_secrets(self._journaled()),
                statuses=dict(self._statuses),
            )
            loop = asyncio.get_running_loop()
            writing = loop.run_in_executor(None, self._journal.save, entry)
            try:
                await asyncio.shield(writing)
            except asyncio.CancelledError:
                # The thread goes on: a journal must not appear after it was removed
                # (test_leaving_removes_everything).
                await writing
                raise

    def _journaled(self) -> Assignments:
        """What is told, and what is still to be removed though told no more."""
        told = self._assignments
        leaving = {
            key: _leaving(manager.task)
            for key, manager in self._managers.items()
            if key not in told.tasks
        }
        return replace(told, tasks={**told.tasks, **leaving}) if leaving else told

    # -- network
    # -------------------------------------------------------------------------

    async def _connect(self) -> None:
        """Bring the network to what is told; what fails now is tried again by `run`."""
        async with self._networking:  # the order of calls is the order of words
            told = self._assignments
            for bring in (self._bring_mesh, self._bring_networks, self._bring_ingress):
                try:
                    await bring(told)
                except ClusterError as error:  # of one: the others go on
                    _log.warning("cluster network not as told yet", reason=str(error))
                    self._network_wanted.set()
                except Exception:  # noqa: BLE001 - trouble of one stays with it
                    _log.exception("cluster network not as told yet")
                    self._network_wanted.set()

    async def _bring_mesh(self, told: Assignments) -> None:
        if told.mesh != self._mesh:
            await self._network.set_mesh(told.mesh)
            self._mesh = told.mesh

    async def _bring_networks(self, told: Assignments) -> None:
        networks = _networks(told)
        if self._networks is None or not _same(self._networks, networks):
            await self._network.set_networks(told)
            self._networks = networks

    async def _bring_ingress(self, told: Assignments) -> None:
        if told.ingress != self._ingress:
            await self._network.set_ingress(told.ingress)
            self._ingress = told.ingress

    async def _keep_network(self) -> None:
        while True:
            await self._network_wanted.wait()
            await asyncio.sleep(NETWORK_RETRY_SECONDS)
            self._network_wanted.clear()
            await self._connect()
            if self._untaken:
                self._take_tasks(self._assignments)
            self._reports.tell()  # that it is settled


_Networks = tuple[
    Mapping[NetworkID, AssignedNetwork],
    Mapping[str, NetworkEndpoint],
    Mapping[str, NetworkService],
]


def _networks(told: Assignments) -> _Networks:
    return told.networks, told.endpoints, told.services


def _same(old: _Networks, new: _Networks) -> bool:
    """By identity: `agent.assignments` keeps what did not change."""
    return all(a is b for a, b in zip(old, new, strict=True))


def _leaving(task: AssignedTask) -> AssignedTask:
    """Of a task that is told no more nobody will say that it is drained."""
    return replace(task, desired_state=TaskState.REMOVE, drained=True)
