"""What the user asked of a service (docker-swarm.md 1.2, 1.3, 1.6, 1.10)."""

from collections.abc import Mapping

from msgspec import field

from shoal.model.names import Wire, always
from shoal.model.spec.task import NetworkAttachmentConfig, TaskSpec


class Replicated(Wire, frozen=True, kw_only=True):
    """A number of tasks; absent is 1."""

    replicas: int | None = None


class Global(Wire, frozen=True, kw_only=True):
    """One task on each node that fits."""


class ReplicatedJob(Wire, frozen=True, kw_only=True):
    """Tasks that run to completion."""

    max_concurrent: int | None = None
    total_completions: int | None = None


class GlobalJob(Wire, frozen=True, kw_only=True):
    """One task to completion on each node that fits."""


class ServiceMode(Wire, frozen=True, kw_only=True):
    """Exactly one is set; none means replicated."""

    replicated: Replicated | None = None
    global_: Global | None = field(name="Global", default=None)
    replicated_job: ReplicatedJob | None = None
    global_job: GlobalJob | None = None


class UpdateConfig(Wire, frozen=True, kw_only=True):
    """How an update or rollback proceeds; times in ns, ratio of failed to all, 0 to 1."""

    parallelism: int = always(0)
    delay: int = 0
    failure_action: str = ""
    monitor: int = 0
    max_failure_ratio: float = always(0.0)
    order: str = always("")


class PortConfig(Wire, frozen=True, kw_only=True):
    """A published port; `PublishedPort` 0 asks for one out of 30000 to 32767."""

    name: str = ""
    protocol: str = ""
    target_port: int = 0
    published_port: int = 0
    publish_mode: str = ""


class EndpointSpec(Wire, frozen=True, kw_only=True):
    """Resolution mode, `vip` or `dnsrr`, and published ports."""

    mode: str = ""
    ports: tuple[PortConfig, ...] = ()


class ServiceSpec(Wire, frozen=True, kw_only=True):
    """The body of `POST /services/create`."""

    name: str = always("")
    labels: Mapping[str, str] = always({})
    task_template: TaskSpec = always(TaskSpec())
    mode: ServiceMode = always(ServiceMode())
    update_config: UpdateConfig | None = None
    rollback_config: UpdateConfig | None = None
    networks: tuple[NetworkAttachmentConfig, ...] = ()
    endpoint_spec: EndpointSpec | None = None
