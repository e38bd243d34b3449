"""The cluster as `GET /swarm` and the Swarm part of `GET /info` show it. Pure."""

from collections.abc import Sequence

import msgspec

from manager.api.wire.envelope import Json, envelope
from manager.api.wire.nodes import tls_json
from manager.control.cluster import TLSInfo
from shoal.model.ids import NodeID
from shoal.model.objects import Cluster, Node
from shoal.model.states import NodeRole

TWO_MANAGERS = (
    "WARNING: Running Swarm in a two-manager configuration. This configuration provides"
    " no fault tolerance, and poses a high risk to lose control over the cluster."
    " Refer to https://docs.docker.com/engine/swarm/admin_guide/ to configure the"
    " Swarm for fault-tolerance."
)


def cluster_json(cluster: Cluster, trust: TLSInfo) -> Json:
    """The cluster without its tokens; a CA key is never shown."""
    ca = msgspec.structs.replace(cluster.spec.ca_config, signing_ca_key="")
    return {
        **envelope(cluster),
        "Spec": msgspec.structs.replace(cluster.spec, ca_config=ca),
        "TLSInfo": tls_json(trust),
        "RootRotationInProgress": bool(cluster.next_root),
        "DefaultAddrPool": cluster.default_addr_pool,
        "SubnetSize": cluster.subnet_size,
        "DataPathPort": cluster.data_path_port,
    }


def swarm_json(cluster: Cluster, trust: TLSInfo, worker: str, manager: str) -> Json:
    """The cluster with its join tokens."""
    return {
        **cluster_json(cluster, trust),
        "JoinTokens": {"Worker": worker, "Manager": manager},
    }


def info_json(me: NodeID, nodes: Sequence[Node], cluster: Cluster, trust: TLSInfo) -> Json:
    """The Swarm section of `info` on a manager."""
    mine = next((node for node in nodes if node.id == me), None)
    managers = [node for node in nodes if node.manager is not None]
    return {
        "NodeID": me,
        "NodeAddr": (mine.addr or mine.joined_from) if mine is not None else "",
        "LocalNodeState": "active",
        "ControlAvailable": True,
        "Error": "",
        "RemoteManagers": [
            {"NodeID": node.id, "Addr": node.manager.addr}
            for node in managers
            if node.manager is not None
        ],
        "Nodes": len(nodes),
        "Managers": len(managers),
        "Cluster": cluster_json(cluster, trust),
    }


def warnings(nodes: Sequence[Node]) -> list[str]:
    """What `info` says to whoever runs a cluster that a single loss would stop."""
    managers = sum(1 for node in nodes if node.spec.role == NodeRole.MANAGER.value)
    if managers != 2:
        return []
    return [TWO_MANAGERS]
