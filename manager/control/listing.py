"""The filters of lists, and what a list says beside the objects. Pure.

`id` and `name` are prefixes, as Swarm has them; labels are all required.
"""

from collections.abc import Callable, Iterable

import msgspec

from manager.control.lookup import find_node, find_service, node_name
from manager.view import View
from shoal.common.engine_http.query import Filters
from shoal.model.defaults import Mode, job_size, mode_of, replicas_of
from shoal.model.objects import Config, Node, Secret, Service, Task
from shoal.model.spec.service import ServiceSpec
from shoal.model.states import TaskState
from shoal.model.validate.refusal import invalid

SERVICE_FILTERS = frozenset({"id", "name", "label", "mode", "runtime"})
TASK_FILTERS = frozenset(
    {"id", "name", "label", "service", "node", "desired-state", "runtime", "_up-to-date"}
)
NODE_FILTERS = frozenset({"id", "name", "label", "role", "membership", "node.label"})
SECRET_FILTERS = frozenset({"id", "name", "names", "label"})
CONFIG_FILTERS = frozenset({"id", "name", "label"})
_DESIRED = {state.api_name: state for state in TaskState}
_MODES = {"replicated", "global", "replicated-job", "global-job"}


class Counts(msgspec.Struct, frozen=True, kw_only=True):
    """ServiceStatus of the API."""

    running: int
    desired: int
    completed: int


def list_services(view: View, filters: Filters) -> list[Service]:
    """Services that pass."""
    for mode in filters.get("mode"):
        if mode not in _MODES:
            raise invalid("filters.mode", f"{mode!r} is none of {', '.join(sorted(_MODES))}")
    return [
        service
        for service in view.services()
        if filters.prefix("id", service.id)
        and filters.prefix("name", service.spec.name)
        and filters.labels(service.spec.labels)
        and filters.exact("mode", mode_of(service.spec))
        and filters.exact("runtime", service.spec.task_template.runtime or "container")
    ]


def count_tasks(view: View, service: Service) -> Counts:
    """How many of its tasks run, should run, and have completed; a job's in its last run."""
    running = desired = completed = 0
    run = service.job_status.iteration if service.job_status is not None else None
    for task in view.tasks_of_service(service.id):
        if task.job_iteration != run:
            continue
        desired += task.wanted and not (run is not None and task.ended)
        running += task.wanted and task.status.state is TaskState.RUNNING
        completed += task.status.state is TaskState.COMPLETE
    mode = mode_of(service.spec)
    if mode is Mode.REPLICATED:
        desired = replicas_of(service.spec)
    elif mode is Mode.REPLICATED_JOB:
        size = job_size(service.spec)
        desired = max(0, min(size.concurrent, size.completions - completed))
    return Counts(running=running, desired=desired, completed=completed)


def list_tasks(view: View, filters: Filters) -> list[Task]:
    """Tasks that pass; services and nodes by id, name or start of id, 404 if there is none.

    A person's container on a network is in no list.
    """
    services = {find_service(view, text).id for text in filters.get("service")}
    nodes = {find_node(view, text).id for text in filters.get("node")}
    desired = {_desired(text) for text in filters.get("desired-state")}
    up_to_date = filters.truth("_up-to-date")
    source: Iterable[Task] = view.tasks()
    if services:
        source = [task for one in sorted(services) for task in view.tasks_of_service(one)]
    elif nodes:
        source = [task for one in sorted(nodes) for task in view.tasks_of_node(one)]
    tests: list[Callable[[Task], bool]] = [lambda task: task.attached is None]
    if nodes:
        tests.append(lambda task: task.node_id in nodes)
    if desired:
        tests.append(lambda task: task.desired_state in desired)
    if up_to_date is not None:
        tests.append(lambda task: is_up_to_date(view, task) is up_to_date)
    if "id" in filters:
        tests.append(lambda task: filters.prefix("id", task.id))
    if "name" in filters:
        tests.append(lambda task: filters.prefix("name", task.name))
    if "label" in filters:
        tests.append(lambda task: filters.labels(task.service_spec.labels))
    if "runtime" in filters:
        tests.append(lambda task: filters.exact("runtime", task.spec.runtime or "container"))
    return [task for task in source if all(test(task) for test in tests)]


def _desired(text: str) -> TaskState:
    if text not in _DESIRED:
        raise invalid(
            "filters.desired-state", f"{text!r} is none of {', '.join(sorted(_DESIRED))}"
        )
    return _DESIRED[text]


def is_up_to_date(view: View, task: Task) -> bool:
    """Made from the service's present spec, or from one that differs in nothing of the task."""
    service = view.service(task.service_id)
    if service is None:
        return False
    if task.spec_version == service.spec_version:
        return True
    old, new = task.service_spec, service.spec
    return old.endpoint_spec == new.endpoint_spec and _unplaced(old) == _unplaced(new)


def _unplaced(spec: ServiceSpec) -> object:
    """The template without where it may run: a change of that alone replaces no task."""
    return msgspec.structs.replace(spec.task_template, placement=None)


def list_nodes(view: View, filters: Filters) -> list[Node]:
    """Nodes that pass; `node.label` are labels of the spec, `label` those of the engine."""
    for word in filters.get("membership"):
        if word not in ("accepted", "pending"):
            raise invalid("filters.membership", f"{word!r} is neither accepted nor pending")
    for word in filters.get("role"):
        if word not in ("manager", "worker"):
            raise invalid("filters.role", f"{word!r} is neither manager nor worker")
    return [
        node
        for node in view.nodes()
        if filters.prefix("id", node.id)
        and filters.prefix("name", node_name(node))
        and filters.exact("role", node.spec.role)
        and filters.exact("membership", "accepted")
        and filters.labels(node.spec.labels, "node.label")
        and filters.labels(_engine_labels(node))
    ]


def _engine_labels(node: Node) -> dict[str, str]:
    return dict(node.description.engine.labels) if node.description is not None else {}


def list_secrets(view: View, filters: Filters) -> list[Secret]:
    """Secrets that pass; `names` are whole names, `name` their beginnings."""
    return [
        secret
        for secret in view.secrets()
        if filters.prefix("id", secret.id)
        and filters.prefix("name", secret.name)
        and filters.exact("names", secret.name)
        and filters.labels(secret.labels)
    ]


def list_configs(view: View, filters: Filters) -> list[Config]:
    """Configs that pass."""
    return [
        config
        for config in view.configs()
        if filters.prefix("id", config.id)
        and filters.prefix("name", config.name)
        and filters.labels(config.labels)
    ]
