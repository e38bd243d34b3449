"""Every route of the API: what it takes, and a good example of it.

`tests/unit/.../test_bad_input.py` holds the tables against the routers, so that a new route
declares here what it must refuse.
"""

from typing import Any

import msgspec

from agent.api.connecting import ConnectRequest, DisconnectRequest
from agent.api.interactive import ExecStart
from agent.api.volumes import VolumeCreate
from agent.engine.execs import ExecCreate
from agent.engine.updating import ContainerUpdate
from agent.swarm import JoinRequest
from manager.control.payloads import PayloadSpec
from shoal.model.container import ContainerCreate
from shoal.model.spec.cluster import ClusterSpec, InitRequest, UnlockRequest
from shoal.model.spec.network import NetworkSpec
from shoal.model.spec.node import NodeSpec
from shoal.model.spec.service import ServiceSpec

Model = type[msgspec.Struct]


class Entry(msgspec.Struct, frozen=True, kw_only=True):
    """One route.

    Attributes:
        path: where to ask; what it names is there, but for `nosuch`.
        query: names of parameters whose values are read.
        filters: it takes `filters`.
        model: of its body; `body` is a good one.
    """

    route: str
    path: str = ""
    query: tuple[str, ...] = ()
    filters: bool = False
    model: Model | None = None
    body: Any = None


def _get(pattern: str, path: str = "", **more: Any) -> Entry:
    return Entry(route=f"GET {pattern}", path=path or pattern, **more)


def _post(pattern: str, path: str = "", **more: Any) -> Entry:
    return Entry(route=f"POST {pattern}", path=path or pattern, **more)


def _delete(pattern: str, path: str, **more: Any) -> Entry:
    return Entry(route=f"DELETE {pattern}", path=path, **more)


SERVICE: dict[str, Any] = {
    "Name": "web",
    "Labels": {"a": "b"},
    "TaskTemplate": {
        "ContainerSpec": {
            "Image": "busybox:latest",
            "Env": ["A=b"],
            "Mounts": [{"Type": "bind", "Source": "/tmp", "Target": "/x", "BindOptions": {}}],
            "Healthcheck": {"Test": ["CMD", "true"]},
            "Hosts": ["192.0.2.1 a"],
            "Ulimits": [{"Name": "nofile", "Soft": 1, "Hard": 2}],
            "CapabilityAdd": ["NET_ADMIN"],
            "Privileges": {"Seccomp": {}, "AppArmor": {}},
            "DNSConfig": {
                "Nameservers": ["192.0.2.1"],
                "Search": ["a"],
                "Options": ["ndots:1"],
            },
            "Sysctls": {"net.ipv4.ip_forward": "1"},
        },
        "Resources": {
            "Limits": {"NanoCPUs": 1_000_000_000},
            "Reservations": {
                "GenericResources": [{"DiscreteResourceSpec": {"Kind": "a", "Value": 1}}]
            },
        },
        "RestartPolicy": {"Condition": "any"},
        "Placement": {
            "Constraints": ["node.labels.never==x"],
            "Preferences": [{"Spread": {"SpreadDescriptor": "node.labels.a"}}],
        },
        "LogDriver": {"Name": "json-file", "Options": {"max-size": "1m"}},
    },
    "Mode": {"Replicated": {"Replicas": 1}},
    "UpdateConfig": {"Parallelism": 1},
    "RollbackConfig": {"Parallelism": 1},
    "EndpointSpec": {"Ports": [{"TargetPort": 80, "PublishedPort": 8080}]},
}
NETWORK = {"Name": "bad", "Driver": "overlay", "IPAM": {"Config": [{"Subnet": "10.5.0.0/24"}]}}
BRIDGE = {**NETWORK, "Driver": "bridge"}
PAYLOAD = {"Name": "bad", "Data": "YQ==", "Labels": {"a": "b"}}
CONTAINER: dict[str, Any] = {
    "Image": "busybox",
    "Cmd": ["true"],
    "Env": ["A=b"],
    "Labels": {"a": "b"},
    "ExposedPorts": {"80/tcp": {}},
    "Healthcheck": {"Test": ["CMD", "true"]},
    "Volumes": {"/v": {}},
    "HostConfig": {
        "Binds": ["/tmp:/t"],
        "PortBindings": {"80/tcp": [{"HostPort": "0"}]},
        "LogConfig": {"Type": "json-file", "Config": {"max-size": "1m"}},
        "Mounts": [{"Type": "tmpfs", "Target": "/y", "TmpfsOptions": {"Options": [["exec"]]}}],
        "Ulimits": [{"Name": "nofile", "Soft": 1, "Hard": 2}],
        "Devices": [{"PathOnHost": "/dev/null"}],
        "DeviceCgroupRules": ["c 42:* rwm"],
        "Dns": ["192.0.2.1"],
        "ExtraHosts": ["a:192.0.2.1"],
        "Sysctls": {"net.ipv4.ip_forward": "1"},
        "Tmpfs": {"/w": "size=1m"},
    },
    "NetworkingConfig": {"EndpointsConfig": {"bridge": {}}},
}

CLUSTER = (
    _get("/swarm"),
    _post("/swarm/init", model=InitRequest, body={"Spec": {"Name": "default"}}),
    _post("/swarm/join", model=JoinRequest, body={"RemoteAddrs": ["192.0.2.1:2377"]}),
    _post("/swarm/leave"),
    _post("/swarm/update", query=("version",), model=ClusterSpec, body={"Name": "default"}),
    _get("/swarm/unlockkey"),
    _post("/swarm/unlock", model=UnlockRequest, body={"UnlockKey": "x"}),
    _get("/nodes", filters=True),
    _get("/nodes/{id}", "/nodes/nosuch"),
    _delete("/nodes/{id}", "/nodes/nosuch"),
    _post(
        "/nodes/{id}/update",
        "/nodes/nosuch/update?version=1",
        query=("version",),
        model=NodeSpec,
        body={"Role": "worker", "Availability": "active"},
    ),
    _get("/services", filters=True),
    _post("/services/create", model=ServiceSpec, body=SERVICE),
    _get("/services/{id}", "/services/nosuch"),
    _delete("/services/{id}", "/services/nosuch"),
    _post(
        "/services/{id}/update",
        "/services/nosuch/update?version=1",
        query=("version", "rollback", "registryAuthFrom"),
        model=ServiceSpec,
        body=SERVICE,
    ),
    _get("/services/{id}/logs", "/services/nosuch/logs?stdout=1", query=("tail", "since")),
    _get("/tasks", filters=True),
    _get("/tasks/{id}", "/tasks/nosuch"),
    _get("/tasks/{id}/logs", "/tasks/nosuch/logs?stdout=1", query=("tail", "since")),
    *(
        entry
        for kind in ("secrets", "configs")
        for entry in (
            _get(f"/{kind}", filters=True),
            _post(f"/{kind}/create", model=PayloadSpec, body=PAYLOAD),
            _get(f"/{kind}/{{id}}", f"/{kind}/nosuch"),
            _delete(f"/{kind}/{{id}}", f"/{kind}/nosuch"),
            _post(
                f"/{kind}/{{id}}/update",
                f"/{kind}/nosuch/update?version=1",
                query=("version",),
                model=PayloadSpec,
                body=PAYLOAD,
            ),
        )
    ),
    _get("/networks", filters=True),
    _post("/networks/create", model=NetworkSpec, body=NETWORK),
    _post("/networks/prune", filters=True),
    _get("/networks/{id}", "/networks/nosuch"),
    _delete("/networks/{id}", "/networks/nosuch"),
    _get("/events", "/events?until=1", query=("since",), filters=True),
    _get("/internal/info"),
)
"""What a manager serves; what it passes on to other hosts is theirs."""

_ONE = "/containers/{id}"
_VICTIM = "/containers/victim"
HOST = (
    *(Entry(route=f"{method} /_ping", path="/_ping") for method in ("GET", "HEAD")),
    _get("/version"),
    _get("/info"),
    _get("/system/df", query=("type",)),
    _post("/auth", body={}),
    _get("/events", "/events?until=1", query=("since",), filters=True),
    _get("/containers/json", query=("limit",), filters=True),
    _post(
        "/containers/create", query=("name", "platform"), model=ContainerCreate, body=CONTAINER
    ),
    _post("/containers/prune", filters=True),
    _get(f"{_ONE}/json", f"{_VICTIM}/json"),
    _get(f"{_ONE}/top", f"{_VICTIM}/top", query=("ps_args",)),
    _get(f"{_ONE}/stats", f"{_VICTIM}/stats?stream=0&one-shot=1"),
    _get(f"{_ONE}/logs", f"{_VICTIM}/logs?stdout=1", query=("since", "until", "tail")),
    _get(f"{_ONE}/changes", f"{_VICTIM}/changes"),
    _get(f"{_ONE}/export", "/containers/nosuch/export"),
    *(
        Entry(route=f"{method} {_ONE}/archive", path=f"{_VICTIM}/archive", query=("path",))
        for method in ("GET", "HEAD", "PUT")
    ),
    _post(f"{_ONE}/start", f"{_VICTIM}/start"),
    _post(f"{_ONE}/stop", "/containers/nosuch/stop", query=("t", "signal")),
    _post(f"{_ONE}/restart", "/containers/nosuch/restart", query=("t", "signal")),
    _post(f"{_ONE}/kill", f"{_VICTIM}/kill", query=("signal",)),
    _post(f"{_ONE}/pause", "/containers/nosuch/pause"),
    _post(f"{_ONE}/unpause", f"{_VICTIM}/unpause"),
    _post(f"{_ONE}/rename", "/containers/nosuch/rename", query=("name",)),
    _post(f"{_ONE}/resize", f"{_VICTIM}/resize", query=("h", "w")),
    _post(
        f"{_ONE}/update", f"{_VICTIM}/update", model=ContainerUpdate, body={"Memory": 1 << 27}
    ),
    _post(f"{_ONE}/wait", "/containers/nosuch/wait", query=("condition",)),
    _post(f"{_ONE}/attach", f"{_VICTIM}/attach", query=("detachKeys",)),
    _post(f"{_ONE}/exec", f"{_VICTIM}/exec", model=ExecCreate, body={"Cmd": ["true"]}),
    _delete(_ONE, "/containers/nosuch"),
    _get("/exec/{id}/json", "/exec/nosuch/json"),
    _post("/exec/{id}/start", "/exec/nosuch/start", model=ExecStart, body={}),
    _post("/exec/{id}/resize", "/exec/nosuch/resize", query=("h", "w")),
    _get("/images/json", filters=True),
    _get("/images/get", query=("names",)),
    _get("/images/{name*}/get", "/images/nosuch/get"),
    _get("/images/{name*}/json", "/images/nosuch/json"),
    _get("/images/{name*}/history", "/images/nosuch/history"),
    _post("/images/load"),
    _post(
        "/images/create",
        "/images/create?fromImage=nosuch",
        query=("fromImage", "tag", "platform", "fromSrc"),
    ),
    _post("/images/prune", filters=True),
    _post("/images/{name*}/tag", "/images/busybox/tag", query=("repo", "tag")),
    _delete("/images/{name*}", "/images/nosuch"),
    _get("/distribution/{name*}/json", "/distribution/nosuch/json"),
    _get("/volumes", filters=True),
    _post("/volumes/create", model=VolumeCreate, body={"Name": "bad", "Driver": "local"}),
    _post("/volumes/prune", filters=True),
    _get("/volumes/{name}", "/volumes/nosuch"),
    _delete("/volumes/{name}", "/volumes/nosuch"),
    _get("/networks", filters=True),
    _post("/networks/create", model=NetworkSpec, body=BRIDGE),
    _post("/networks/prune", filters=True),
    _get("/networks/{id}", "/networks/bridge", query=("scope",)),
    _delete("/networks/{id}", "/networks/nosuch"),
    _post(
        "/networks/{id}/connect",
        "/networks/bridge/connect",
        model=ConnectRequest,
        body={"Container": "nosuch"},
    ),
    _post(
        "/networks/{id}/disconnect",
        "/networks/bridge/disconnect",
        model=DisconnectRequest,
        body={"Container": "nosuch"},
    ),
    _get("/plugins"),
    _get("/plugins/{name*}/json", "/plugins/nosuch/json"),
    _post("/build/prune"),
)
"""What a host's agent serves itself."""

UNBUILT = frozenset(
    {
        *("GET /containers/{id}/attach/ws", "POST /commit", "GET /images/search"),
        *(f"{method} /containers/{{id}}/checkpoints" for method in ("GET", "POST", "DELETE")),
        *("POST /images/{name*}/push", "POST /build", "POST /build/cancel", "POST /session"),
        *("POST /grpc", "PUT /volumes/{name}", "GET /plugins/privileges"),
        *(f"{method} /plugins/{{rest*}}" for method in ("POST", "DELETE")),
    }
)
"""Routes that answer 501 with a sentence, whatever is asked."""
