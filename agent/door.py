"""The Engine API for managers: mutual TLS on TCP, open while this host is a node.

A manager's certificate opens it only while its node is in the manager list of the last
assignment: demotion acts at once (DESIGN section 6). What managers do here is `docker logs`,
`exec` and `inspect` on behalf of users on other hosts.
"""

from typing import Protocol

from agent.membership import ClusterAgent
from shoal.common.certificates import Role
from shoal.common.config import HostConfig
from shoal.common.engine_http.call import Call
from shoal.common.engine_http.server import EngineServer
from shoal.common.identity import CurrentIdentity
from shoal.common.tls import peer_of_transport, server_context
from shoal.model.errors import PermissionDenied


class Membership(Protocol):
    """This host's place in a cluster, or outside of all (`agent.swarm.HostCluster`)."""

    @property
    def config(self) -> HostConfig: ...

    @property
    def agent(self) -> ClusterAgent | None: ...

    @property
    def identity(self) -> CurrentIdentity | None: ...

    async def first_identity(self) -> CurrentIdentity:
        """Wait until this host is a node; who it is then."""
        ...

    async def left(self, current: CurrentIdentity) -> None:
        """Wait until it is that node no longer."""
        ...


class Door:
    """Open while the host is a node, with the certificate of that cluster."""

    def __init__(
        self, membership: Membership, server: EngineServer, config: HostConfig
    ) -> None:
        self._membership = membership
        self._server = server
        self._config = config

    async def run(self) -> None:
        """Listen whenever the host is a node, until cancelled."""
        while True:
            current = await self._membership.first_identity()
            host = "::" if ":" in self._membership.config.address else "0.0.0.0"  # noqa: S104 - mTLS
            port, context = self._config.agent_port, server_context(current)
            async with self._server.listening(host, port, context, self.guard):
                await self._membership.left(current)

    def guard(self, call: Call) -> None:
        """Refuse all but the managers of this host's cluster."""
        peer = peer_of_transport(call.request.transport)
        agent, current = self._membership.agent, self._membership.identity
        if agent is None or current is None:
            raise PermissionDenied("this host is in no cluster")
        managers = {each.node_id for each in agent.state().managers}
        if peer.cluster_id != current.get().cluster_id or peer.role is not Role.MANAGER:
            raise PermissionDenied(f"node {peer.node_id} is no manager of this cluster")
        if peer.node_id not in managers:
            raise PermissionDenied(f"node {peer.node_id} is not a manager any more")
