"""The Engine API for managers: mutual TLS on TCP, open while this host is a node.

A manager's certificate opens it only while its node is in the manager list of the last
assignment: demotion acts at once (DESIGN section 6). What managers do here is `docker logs`,
`exec` and `inspect` on behalf of users on other hosts.
"""

from agent.swarm import HostCluster
from shoal.common.certificates import Role
from shoal.common.config import HostConfig
from shoal.common.engine_http.call import Call
from shoal.common.engine_http.server import EngineServer
from shoal.common.tls import peer_of_transport, server_context
from shoal.model.errors import PermissionDenied


class Door:
    """Opens when the host becomes a node; the guard refuses everybody once it has left."""

    def __init__(
        self, membership: HostCluster, server: EngineServer, config: HostConfig
    ) -> None:
        self._membership = membership
        self._server = server
        self._config = config

    async def run(self) -> None:
        """Listen from the first identity on."""
        identity = await self._membership.first_identity()
        host = "::" if ":" in self._membership.config.address else "0.0.0.0"  # noqa: S104 - mTLS
        await self._server.serve_tcp(
            host, self._config.agent_port, server_context(identity), self.guard
        )

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
