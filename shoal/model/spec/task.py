"""What a service's tasks are made of: the TaskTemplate of a ServiceSpec.

Durations are nanoseconds, memory is bytes, CPU is billionths of one (`NanoCPUs`).
Enumerations are plain strings here, because a wrong word must be refused with a sentence that
names the field (`shoal.model.validate`), not by the decoder.
"""

from collections.abc import Mapping

from msgspec import field

from shoal.model.container import HealthConfig, Mount
from shoal.model.names import Wire, always


class Privileges(Wire, frozen=True, kw_only=True):
    """Security options of a container."""

    credential_spec: Mapping[str, str] | None = None
    selinux_context: "SELinuxContext | None" = None
    seccomp: "SeccompOpts | None" = None
    app_armor: "AppArmorOpts | None" = None
    no_new_privileges: bool = False


class SELinuxContext(Wire, frozen=True, kw_only=True):
    """SELinux labels."""

    disable: bool = False
    user: str = ""
    role: str = ""
    type: str = ""
    level: str = ""


class SeccompOpts(Wire, frozen=True, kw_only=True):
    """Mode `default`, `unconfined` or `custom`, the last with a profile."""

    mode: str = ""
    profile: bytes = b""


class AppArmorOpts(Wire, frozen=True, kw_only=True):
    """Mode `default` or `disabled`."""

    mode: str = ""


class DNSConfig(Wire, frozen=True, kw_only=True):
    """resolv.conf of the container."""

    nameservers: tuple[str, ...] = ()
    search: tuple[str, ...] = ()
    options: tuple[str, ...] = ()


class ReferenceFile(Wire, frozen=True, kw_only=True):
    """Where a secret or config appears; `Mode` is a plain number, e.g. 292 for 0444."""

    name: str = always("")
    uid: str = always("")
    gid: str = always("")
    mode: int = always(0)


class SecretReference(Wire, frozen=True, kw_only=True):
    """A secret as a file; id and name must both match."""

    file: ReferenceFile | None = None
    secret_id: str = always("")
    secret_name: str = always("")


class ConfigReference(Wire, frozen=True, kw_only=True):
    """A config as a file, or handed to the runtime."""

    file: ReferenceFile | None = None
    runtime: Mapping[str, str] | None = None
    config_id: str = always("")
    config_name: str = always("")


class Ulimit(Wire, frozen=True, kw_only=True):
    """One rlimit."""

    name: str = ""
    soft: int = 0
    hard: int = 0


class ContainerSpec(Wire, frozen=True, kw_only=True):
    """The container of a task. `Command` replaces the entrypoint, `Args` the command."""

    image: str = ""
    labels: Mapping[str, str] = field(default_factory=dict)
    command: tuple[str, ...] = ()
    args: tuple[str, ...] = ()
    hostname: str = ""
    env: tuple[str, ...] = ()
    dir: str = ""
    user: str = ""
    groups: tuple[str, ...] = ()
    privileges: Privileges | None = None
    init: bool | None = None
    stop_signal: str = ""
    tty: bool = False
    open_stdin: bool = False
    read_only: bool = False
    mounts: tuple[Mount, ...] = ()
    stop_grace_period: int | None = None
    healthcheck: HealthConfig | None = None
    hosts: tuple[str, ...] = ()
    dns_config: DNSConfig | None = None
    secrets: tuple[SecretReference, ...] = ()
    configs: tuple[ConfigReference, ...] = ()
    isolation: str = always("")
    sysctls: Mapping[str, str] = field(default_factory=dict)
    capability_add: tuple[str, ...] = ()
    capability_drop: tuple[str, ...] = ()
    ulimits: tuple[Ulimit, ...] = ()
    oom_score_adj: int = 0


class NamedResource(Wire, frozen=True, kw_only=True):
    """One named thing of a kind, e.g. `gpu=GPU-1`."""

    kind: str = ""
    value: str = ""


class DiscreteResource(Wire, frozen=True, kw_only=True):
    """A number of things of a kind, e.g. `ssd=3`."""

    kind: str = ""
    value: int = 0


class GenericResource(Wire, frozen=True, kw_only=True):
    """Either named or discrete."""

    named_resource_spec: NamedResource | None = None
    discrete_resource_spec: DiscreteResource | None = None


class Limit(Wire, frozen=True, kw_only=True):
    """Upper bounds of one task; 0 is none."""

    nano_cpus: int = 0
    memory_bytes: int = 0
    pids: int = 0


class Resources(Wire, frozen=True, kw_only=True):
    """What one task reserves, or a node has."""

    nano_cpus: int = 0
    memory_bytes: int = 0
    generic_resources: tuple[GenericResource, ...] = ()


class ResourceRequirements(Wire, frozen=True, kw_only=True):
    """Limits and reservations."""

    limits: Limit | None = None
    reservations: Resources | None = None
    swap_bytes: int | None = None
    memory_swappiness: int | None = None


class RestartPolicy(Wire, frozen=True, kw_only=True):
    """Defaults when absent: any, 5 s, 0 (no maximum), 0 (no window)."""

    condition: str = ""
    delay: int | None = None
    max_attempts: int | None = None
    window: int | None = None


class SpreadOver(Wire, frozen=True, kw_only=True):
    """The label to spread over: `node.labels.X` or `engine.labels.X`."""

    spread_descriptor: str = ""


class PlacementPreference(Wire, frozen=True, kw_only=True):
    """Only spread exists."""

    spread: SpreadOver | None = None


class Platform(Wire, frozen=True, kw_only=True):
    """Architecture and operating system; empty matches any."""

    architecture: str = ""
    os: str = ""


class Placement(Wire, frozen=True, kw_only=True):
    """Where tasks may and should run."""

    constraints: tuple[str, ...] = ()
    preferences: tuple[PlacementPreference, ...] = ()
    max_replicas: int = 0
    platforms: tuple[Platform, ...] = ()


class NetworkAttachmentConfig(Wire, frozen=True, kw_only=True):
    """A network of the service, by name or id."""

    target: str = ""
    aliases: tuple[str, ...] = ()
    driver_opts: Mapping[str, str] = field(default_factory=dict)


class LogDriver(Wire, frozen=True, kw_only=True):
    """Log driver of a task and its options."""

    name: str = ""
    options: Mapping[str, str] = field(default_factory=dict)


class TaskSpec(Wire, frozen=True, kw_only=True):
    """The template that each task of a service is made from."""

    container_spec: ContainerSpec | None = None
    plugin_spec: Mapping[str, str] | None = None
    network_attachment_spec: Mapping[str, str] | None = None
    resources: ResourceRequirements | None = None
    restart_policy: RestartPolicy | None = None
    placement: Placement | None = None
    networks: tuple[NetworkAttachmentConfig, ...] = ()
    log_driver: LogDriver | None = None
    force_update: int = always(0)
    runtime: str = ""
