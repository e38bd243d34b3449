"""The key layout of the store, and the guard keys that hold what spans objects.

    cluster                        the cluster object
    service/<id>  node/<id>  task/<id>  network/<id>  secret/<id>  config/<id>
    spec/<service>/<version>       the ServiceSpec that tasks of that version were made from
    status/<task>                  what the agent reported of the task
    describe/<node> session/<node> what a node is, and which manager serves it
    applied/<node>                 what the sessions of a manager have applied of what stops
    name/<kind>/<name>             guard: the object that holds the name
    port/<protocol>/<port>         guard: the service that holds the published port
    subnet/<subnet>                guard: the node that holds the subnet
    joined/<key digest>            guard: the node that joined with that key
    ref/<kind>/<id>/<service>      guard: that service (or attached task) refers to that object
    mutation/<id>                  what became of a write, kept for 10 to 20 minutes

Everything stands under `shoal/`, but for the key of the election, `leader`.
"""

from shoal.model.defaults import mesh_ports
from shoal.model.objects import (
    Cluster,
    Config,
    Network,
    Node,
    Secret,
    Service,
    ServiceVersion,
    StoredObject,
    Task,
)
from shoal.model.spec.network import HOST_NETWORK

ROOT = "shoal/"
LEADER_KEY = b"leader"
CLUSTER = ROOT + "cluster"

TABLES: dict[type, str] = {
    Node: "node",
    Service: "service",
    ServiceVersion: "spec",
    Task: "task",
    Network: "network",
    Secret: "secret",
    Config: "config",
}


def object_key(thing: StoredObject) -> str:
    """The main key of an object: the one whose revision guards it."""
    if isinstance(thing, Cluster):
        return CLUSTER
    return f"{ROOT}{TABLES[type(thing)]}/{thing.id}"


def spec_key(service: str, version: int) -> str:
    return f"{ROOT}spec/{service}/{version}"


def status_key(task: str) -> str:
    return f"{ROOT}status/{task}"


def describe_key(node: str) -> str:
    return f"{ROOT}describe/{node}"


SESSIONS = f"{ROOT}session/"


def session_key(node: str) -> str:
    return f"{SESSIONS}{node}"


def applied_key(manager: str) -> str:
    return f"{ROOT}applied/{manager}"


def mutation_key(mutation: str) -> str:
    return f"{ROOT}mutation/{mutation}"


def reference_prefix(kind: str, identity: str) -> str:
    """All services that refer to an object stand below it; deleting compares it as empty."""
    return f"{ROOT}ref/{kind}/{identity}/"


def name_key(kind: str, name: str) -> str:
    return f"{ROOT}name/{kind}/{name}"


def port_key(protocol: str, port: int) -> str:
    return f"{ROOT}port/{protocol}/{port}"


def guard_keys(thing: StoredObject) -> frozenset[str]:
    """The keys an object holds beside its own; each belongs to at most one object."""
    match thing:
        case Service():
            held = {name_key("service", thing.spec.name)}
            for port in mesh_ports(thing.endpoint.ports):
                if port.published_port:
                    held.add(port_key(port.protocol, port.published_port))
            held.update(prefix + thing.id for prefix in references(thing).values())
            return frozenset(held)
        case Network() if thing.pending_delete:
            return frozenset()
        case Network() | Secret() | Config():
            return frozenset({name_key(TABLES[type(thing)], thing.name)})
        case Task() if thing.attached is not None:
            return frozenset(prefix + thing.id for prefix in references(thing).values())
        case Node():
            held = {f"{ROOT}subnet/{thing.subnet}"} if thing.subnet else set()
            if thing.key_digest:
                held.add(f"{ROOT}joined/{thing.key_digest}")
            return frozenset(held)
        case _:
            return frozenset()


def references(thing: Service | Task) -> dict[str, str]:
    """Keys of the objects that it refers to -> prefix of their reference guards.

    A service refers to networks, secrets and configs; a task only where it stands for a
    person's container, to that one's network.
    """
    found: dict[str, str] = {}
    if isinstance(thing, Task):
        if thing.attached is not None:
            network = thing.attached.network_id
            found[f"{ROOT}network/{network}"] = reference_prefix("network", network)
        return found
    container = thing.spec.task_template.container_spec
    if container is not None:
        for secret in container.secrets:
            found[f"{ROOT}secret/{secret.secret_id}"] = reference_prefix(
                "secret", secret.secret_id
            )
        for config in container.configs:
            found[f"{ROOT}config/{config.config_id}"] = reference_prefix(
                "config", config.config_id
            )
    for one in thing.spec.task_template.networks:
        if one.target == HOST_NETWORK:
            continue
        found[f"{ROOT}network/{one.target}"] = reference_prefix("network", one.target)
    return found
