"""Nodes as `GET /nodes` shows them. Pure."""

from manager.api.wire.envelope import Json, envelope
from manager.control.cluster import TLSInfo
from shoal.model.ids import NodeID
from shoal.model.objects import Node
from shoal.model.states import NodeState, Reachability


def node_json(node: Node, leader: NodeID | None, trust: TLSInfo) -> Json:
    """The whole node; `leader` is who leads now."""
    out = envelope(node)
    out["Spec"] = node.spec
    out["Description"] = _description(node, trust)
    status: Json = {"State": node.state.value}
    taken = f"not published on this host: {_listed(node)}" if node.taken_ports else ""
    if message := "; ".join(filter(None, (node.message, taken))):
        status["Message"] = message
    status["Addr"] = node.addr or node.joined_from
    out["Status"] = status
    if node.manager is not None:
        out["ManagerStatus"] = _manager(node, leader)
    return out


def _listed(node: Node) -> str:
    return "; ".join(map(str, node.taken_ports))


def reachability(node: Node) -> Reachability:
    """Of a manager's store member, judged by its host: they live and die together."""
    if node.state is NodeState.READY:
        return Reachability.REACHABLE
    if node.state in (NodeState.DOWN, NodeState.DISCONNECTED):
        return Reachability.UNREACHABLE
    return Reachability.UNKNOWN


def _manager(node: Node, leader: NodeID | None) -> Json:
    out: Json = {}
    if node.id == leader:
        out["Leader"] = True
    out["Reachability"] = reachability(node).value
    out["Addr"] = node.manager.addr if node.manager is not None else ""
    return out


def _description(node: Node, trust: TLSInfo) -> Json:
    out: Json = {"TLSInfo": tls_json(trust)}
    described = node.description
    if described is None:
        return out
    engine: Json = {"EngineVersion": described.engine.engine_version}
    if described.engine.labels:
        engine["Labels"] = described.engine.labels
    engine["Plugins"] = [
        {"Type": kind, "Name": name} for kind, name in described.engine.plugins
    ]
    resources: Json = {
        "NanoCPUs": described.resources.nano_cpus,
        "MemoryBytes": described.resources.memory_bytes,
    }
    if described.resources.generic_resources:
        resources["GenericResources"] = described.resources.generic_resources
    return {
        "Hostname": described.hostname,
        "Platform": {
            "Architecture": described.platform.architecture,
            "OS": described.platform.os,
        },
        "Resources": resources,
        "Engine": engine,
        **out,
    }


def tls_json(trust: TLSInfo) -> Json:
    """The CA as clients compare it."""
    return {
        "TrustRoot": trust.trust_root,
        "CertIssuerSubject": trust.issuer_subject,
        "CertIssuerPublicKey": trust.issuer_public_key,
    }
