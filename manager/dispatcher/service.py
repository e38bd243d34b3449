"""gRPC to the agents: one stream a node, in which it is told and reports.

Serves on every manager, leader or not. Decides nothing: it shows each agent the part of memory
that concerns it, stamped (incarnation, epoch, revision) so that an older word never undoes a
newer one, and stores what the agent says. The certificate says which node speaks.
"""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Mapping, Sequence

import grpc.aio
import structlog
from msgspec.structs import replace
from typing_extensions import override

from manager.control.attachments import Attachments, Wish
from manager.control.waiting import shows
from manager.dispatcher.assignments import (
    ClusterPart,
    Confidences,
    assignments_for,
    cluster_part,
    complete,
    difference,
    portions,
)
from manager.dispatcher.draining import Draining
from manager.dispatcher.networks import NetworkParts
from manager.dispatcher.sessions import AgentSession, Sessions
from manager.dispatcher.status import Report, StatusWriter
from manager.store.memory import Memory
from proto import dispatcher_pb2
from proto.convert import from_message, to_message
from proto.dispatcher_pb2_grpc import DispatcherServicer
from shoal.common.certificates import Role
from shoal.common.rpc import EVERY_ROLE
from shoal.common.tls import Call, peer_of_call
from shoal.model.assignment import Stamp
from shoal.model.changes import Event, Failure
from shoal.model.defaults import heartbeat_of
from shoal.model.errors import ClusterError, InvalidArgument, Unavailable
from shoal.model.ids import NetworkID, NodeID, TaskID
from shoal.model.objects import (
    Cluster,
    Network,
    Node,
    NodeReport,
    Service,
    Task,
    TaskStatus,
)
from shoal.model.states import NodeState

_log = structlog.get_logger(__name__)

ACCESS: Mapping[str, frozenset[Role]] = {
    "/shoal.Dispatcher/Session": EVERY_ROLE,
    "/shoal.Dispatcher/AttachNetwork": EVERY_ROLE,
    "/shoal.Dispatcher/DetachNetwork": EVERY_ROLE,
    "/shoal.Dispatcher/Leave": EVERY_ROLE,
}
REGISTER_SECONDS = 10.0
LEAVE_SECONDS = 3.0

Requests = AsyncIterator[dispatcher_pb2.AgentMessage]
Write = Callable[[dispatcher_pb2.ManagerMessage], Awaitable[None]]
Context = grpc.aio.ServicerContext[dispatcher_pb2.AgentMessage, dispatcher_pb2.ManagerMessage]


class Dispatcher(DispatcherServicer):
    """Serves all sessions of this manager.

    `confidences` gives what is stored sealed, opened; `parts` are shared with `draining`.
    """

    def __init__(
        self,
        memory: Memory,
        sessions: Sessions,
        statuses: StatusWriter,
        confidences: Callable[[], Confidences],
        draining: Draining,
        parts: NetworkParts,
        attachments: Attachments,
    ) -> None:
        self._memory = memory
        self._sessions = sessions
        self._statuses = statuses
        self._confidences = confidences
        self._part: ClusterPart | None = None
        self._draining = draining
        self._networks = parts
        self._attachments = attachments
        memory.listen(self._on_events)

    # -- what changes wake whom
    # ------------------------------------------------------------------

    def _on_events(self, events: Sequence[Event]) -> None:
        touched: set[NetworkID] = set()
        for event in events:
            touched.update(self._networks.note(event))
            self._draining.note(event)
            match event.object:
                case Task():
                    self._on_task(event)
                case Node() | Service() | Cluster():
                    self._on_cluster(event)
                case Network() as network if network.spec.ingress:
                    self._on_cluster(event)
                case _:
                    continue
        for session in self._sessions.open():
            if session.told is not None and not touched.isdisjoint(session.told.networks):
                session.wake()

    def _on_task(self, event: Event) -> None:
        for task in (event.before, event.after):
            if not isinstance(task, Task):
                continue
            if task.node_id is not None and (session := self._sessions.of(task.node_id)):
                session.wake()
            endpoint = task.service_spec.endpoint_spec
            service = self._memory.service(task.service_id)
            # The ports of the service as it is now lead to tasks of an older spec too.
            now = service is not None and service.endpoint.ports
            if (endpoint is not None and endpoint.ports) or now:
                self._part = None
        if self._part is None:
            self._wake_all()

    def _on_cluster(self, event: Event) -> None:
        if isinstance(event.object, Node):
            if _only_applied(event):
                return
            self._end_superseded(event.object)
        self._part = None
        self._wake_all()

    def _end_superseded(self, node: Node) -> None:
        """A session whose node is gone, or has a newer one elsewhere, or that is doubted, ends.

        The agent of a living host opens another at once, which counts.
        """
        session = self._sessions.of(node.id)
        if session is None or self._memory.revision < session.revision:
            return
        present = self._memory.node(node.id)
        holder = present.session if present is not None and present.heard else None
        if holder is None or holder.session != session.id:
            session.end()

    def _wake_all(self) -> None:
        for session in self._sessions.open():
            session.wake()

    # -- one session
    # -----------------------------------------------------------------------------

    @override
    async def Session(  # type: ignore[override]
        self, request_iterator: Requests, context: Context
    ) -> None:
        """Serve the agent whose certificate came with the call."""
        await self.converse(_caller(context), request_iterator, context.write)

    async def converse(self, node: NodeID, requests: Requests, write: Write) -> None:
        """Serve one agent until either side ends the stream or the session is superseded."""
        session = await self._register(node, requests)
        try:
            session.pace(self._heartbeat())
            await write(_welcome(session))
            await self._serve(session, requests, write)
        except* ClusterError as group:
            raise group.exceptions[0] from group
        finally:
            self._sessions.close(session)
            self._draining.wake()
            _log.info("session closed", node=node, session=session.id)

    @override
    async def AttachNetwork(
        self,
        request: dispatcher_pb2.AttachNetworkRequest,
        context: grpc.aio.ServicerContext[
            dispatcher_pb2.AttachNetworkRequest, dispatcher_pb2.AttachNetworkReply
        ],
    ) -> dispatcher_pb2.AttachNetworkReply:
        """Give a container of the calling node a place on an attachable network."""
        wish = Wish(
            network=request.network,
            container_id=request.container_id,
            container_name=request.container_name,
            aliases=tuple(request.aliases),
            addresses=tuple(request.addresses),
        )
        task = await self._attachments.attach(_caller(context), wish)
        return dispatcher_pb2.AttachNetworkReply(
            task_id=task.id, network_id=task.networks[0].network_id
        )

    @override
    async def DetachNetwork(
        self,
        request: dispatcher_pb2.DetachNetworkRequest,
        context: grpc.aio.ServicerContext[
            dispatcher_pb2.DetachNetworkRequest, dispatcher_pb2.DetachNetworkReply
        ],
    ) -> dispatcher_pb2.DetachNetworkReply:
        """Take that place back."""
        await self._attachments.detach(_caller(context), TaskID(request.task_id))
        return dispatcher_pb2.DetachNetworkReply()

    @override
    async def Leave(
        self,
        request: dispatcher_pb2.LeaveRequest,
        context: grpc.aio.ServicerContext[
            dispatcher_pb2.LeaveRequest, dispatcher_pb2.LeaveReply
        ],
    ) -> dispatcher_pb2.LeaveReply:
        """Let the calling node go."""
        await self.let_go(_caller(context))
        return dispatcher_pb2.LeaveReply()

    async def let_go(self, node: NodeID) -> None:
        """Note that a node has left; return once it is down, or after `LEAVE_SECONDS`."""
        await self._sessions.leave(node)

        def down() -> bool:
            known = self._memory.node(node)
            return known is None or known.state is NodeState.DOWN

        await shows(self._memory, down, LEAVE_SECONDS)

    async def _register(self, node: NodeID, requests: Requests) -> AgentSession:
        try:
            async with asyncio.timeout(REGISTER_SECONDS):
                first = await anext(requests)
                if first.WhichOneof("said") != "register":
                    raise InvalidArgument("a session begins with Register", field="register")
                return await self._sessions.register(
                    node,
                    from_message(first.register.report, NodeReport),
                    from_message(first.register.applied, Stamp),
                )
        except StopAsyncIteration as error:
            raise InvalidArgument(
                "the stream ended before Register", field="register"
            ) from error
        except TimeoutError as error:
            raise Unavailable("this manager has not caught up yet", retry_after=1.0) from error

    async def _serve(self, session: AgentSession, requests: Requests, write: Write) -> None:
        """Read and write at once; the first of them to end, ends the other."""
        async with asyncio.TaskGroup() as group:
            parts = [
                group.create_task(self._hear(session, requests), name="hear"),
                group.create_task(self._tell(session, write), name="tell"),
                group.create_task(self._watch_silence(session), name="silence"),
            ]
            await session.ended.wait()
            for part in parts:
                part.cancel()

    async def _hear(self, session: AgentSession, requests: Requests) -> None:
        try:
            async with asyncio.TaskGroup() as group:
                async for message in requests:
                    self._sessions.heard(session)
                    match message.WhichOneof("said"):
                        case "heartbeat":
                            session.acknowledge(0)
                        case "status":
                            update = self._store(session, message.status)
                            group.create_task(update, name="status")
                        case "described":
                            report = from_message(message.described.report, NodeReport)
                            await self._sessions.describe(session, report)
                        case "applied":
                            session.progress.applied(message.applied.sequence)
                            self._draining.wake()
                        case "resync":
                            session.told = None
                            session.wake()
                        case other:
                            raise InvalidArgument(f"{other} is not said within a session")
        finally:
            session.end()

    async def _store(self, session: AgentSession, update: dispatcher_pb2.StatusUpdate) -> None:
        await self._statuses.store(
            [
                Report(
                    session.node,
                    session.revision,
                    TaskID(report.task_id),
                    from_message(report.status, TaskStatus),
                )
                for report in update.reports
            ]
        )
        session.acknowledge(update.sequence)

    async def _watch_silence(self, session: AgentSession) -> None:
        while (left := self._sessions.silent(session)) > 0:
            session.paced.clear()
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(left):
                    await session.paced.wait()
        _log.warning("agent is silent", node=session.node, seconds=session.patience)
        session.end()

    async def _tell(self, session: AgentSession, write: Write) -> None:
        while True:
            for message in self._news(session):
                await write(message)
            await session.woken.wait()
            session.woken.clear()
            self._draining.wake()

    def _news(self, session: AgentSession) -> list[dispatcher_pb2.ManagerMessage]:
        """Acknowledgements, and the assignments if they may have changed. Never awaits."""
        news = [_acknowledgement(sequence) for sequence in session.acknowledged]
        session.acknowledged.clear()
        if session.pace(self._heartbeat()):
            news.append(_welcome(session))
        if not session.stale:
            return news
        session.stale = False
        if self._part is None:
            self._part = cluster_part(self._memory)
            _tell_of(self._part.failures)
        present = assignments_for(
            self._memory,
            session.node,
            self._part,
            self._networks,
            self._confidences(),
            self._draining.drained,
            session.tasks,
        )
        _tell_of((*session.tasks.failures, *self._networks.failures))
        session.tasks.failures.clear()
        self._networks.failures.clear()
        whole = session.told is None
        change = (
            complete(present) if session.told is None else difference(session.told, present)
        )
        if change is None:
            return news
        session.told = present
        session.sequence = 0 if whole else session.sequence
        *first, last = portions(change)
        for part in (*first, last):
            session.sequence += 1
            message = dispatcher_pb2.ManagerMessage()
            assignments = message.assignments
            to_message(self._stamp(session), assignments.stamp)
            assignments.complete = session.sequence == 1
            assignments.sequence = session.sequence
            to_message(part, assignments.difference)
            # Only with the last part of a set has an agent come to its revision.
            revision = self._memory.revision if part is last else 0
            session.progress.told(session.sequence, revision)
            news.append(message)
        return news

    def _heartbeat(self) -> float:
        """Seconds between an agent's heartbeats, as the cluster is set."""
        return heartbeat_of(self._memory.cluster()).total_seconds()

    def _stamp(self, session: AgentSession) -> Stamp:
        """As of now. A manager begun while nobody leads knows of no epoch: the agent's counts.

        Its word is no older: it registered the agent at the revision that this one has applied.
        """
        cluster = self._memory.cluster()
        incarnation = cluster.incarnation if cluster is not None else 0
        applied = session.applied
        known = applied is not None and applied.incarnation == incarnation
        return Stamp(
            incarnation=incarnation,
            epoch=max(self._memory.epoch, applied.epoch if known and applied else 0),
            revision=self._memory.revision,
        )


def _tell_of(failures: Iterable[Failure]) -> None:
    """Log what could not be told to nodes."""
    for failure in failures:
        _log.error("not told", about=failure.about, exc_info=failure.error)


def _caller(context: Call) -> NodeID:
    """The node whose certificate came with a call."""
    return NodeID(peer_of_call(context).node_id)


def _only_applied(event: Event) -> bool:
    """Whether a manager only said what its sessions have applied: no news to any node."""
    before, after = event.before, event.after
    if not isinstance(before, Node) or not isinstance(after, Node):
        return False
    return before.applied != after.applied and replace(before, applied=None) == replace(
        after, applied=None
    )


def _welcome(session: AgentSession) -> dispatcher_pb2.ManagerMessage:
    """The first word of a session, said again where the heartbeat has changed."""
    return dispatcher_pb2.ManagerMessage(
        welcome=dispatcher_pb2.Welcome(
            session_id=session.id, heartbeat_ns=round(session.heartbeat * 1e9)
        )
    )


def _acknowledgement(sequence: int) -> dispatcher_pb2.ManagerMessage:
    """Of a status update, or of a heartbeat, which has no number."""
    if sequence:
        return dispatcher_pb2.ManagerMessage(
            status_ack=dispatcher_pb2.StatusAck(sequence=sequence)
        )
    return dispatcher_pb2.ManagerMessage(heartbeat_ack=dispatcher_pb2.HeartbeatAck())
