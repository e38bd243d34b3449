"""A task that took requests stops only once no host sends it any, or the deadline has passed.

Judged by what the kernels of the hosts have, not by what anybody says: a host counts that led
to the task when it was to stop, and has had the same session, open at its manager, ever since.
"""

from collections.abc import Callable, Mapping

from msgspec import Struct

from agent.runtime.fake import Fate
from agent.task.manager import DRAIN_SECONDS
from shoal.model.ids import NodeID, TaskID
from shoal.model.states import TaskState
from tests.simulation.hosts import Host
from tests.simulation.truth import Revision, Truth

SLACK = 1e-3


class _Stop(Struct, frozen=True):
    """When a task was to stop, its address, and the sessions of the hosts that led to it."""

    at: float
    address: str
    sessions: Mapping[NodeID, str]


class Withdrawn:
    """Watches each task that is to stop."""

    def __init__(
        self,
        truth: Truth,
        hosts: Mapping[NodeID, Host],
        session: Callable[[NodeID], str],
    ) -> None:
        self._truth = truth
        self._session = session
        self._hosts = hosts
        self._stops: dict[TaskID, _Stop] = {}

    def check(self, revision: Revision) -> None:
        """Remember who led to what is to stop now."""
        for _, after in revision.stops():
            address = next(iter(after.status.addresses), "")
            self._stops[after.id] = _Stop(
                self._truth.now(), address, self._clients(after.id, address)
            )

    def _clients(self, task: TaskID, address: str) -> dict[NodeID, str]:
        found = {}
        for name, host in self._hosts.items():
            session = self._session(name)
            if session and host.powered and self._leads(host, task, address):
                found[name] = session
        return found

    def _leads(self, host: Host, task: TaskID, address: str) -> bool:
        """By its kernel, from a container whose task the store knows and has not seen end."""
        located = {
            one.id
            for one in self._truth.view.tasks_of_node(host.node)
            if one.status.state >= TaskState.ASSIGNED and not one.ended
        }
        another = any(
            one.id != task and one.wanted and address in one.status.addresses
            for one in self._truth.view.tasks()
        )
        return host.wires.leads_to(task, "" if another else address, located)

    def fate(self, node: NodeID, identity: TaskID, fate: Fate) -> None:
        """A container is told to stop."""
        task, stop = self._truth.view.task(identity), self._stops.get(identity)
        if fate is not Fate.STOPPING or task is None or task.ended or stop is None:
            return
        if self._truth.view.node(node) is None:
            return  # it was removed: nobody tells it anything
        if self._truth.now() >= stop.at + DRAIN_SECONDS - SLACK:
            return
        for name, session in stop.sessions.items():
            host = self._hosts[name]
            if host.agent is None or self._session(name) != session:
                continue
            if self._leads(host, identity, stop.address):
                self._truth.object_to(
                    f"{self._truth.name(task)} was stopped, and {name} still leads to it"
                )
