"""A container of one host as the Docker Engine API describes it: `POST /containers/create`.

This is the one shape in which a container is asked for on a host, whether by a person or for a
service's task (which the agent converts to it). The keys follow the container half of the API,
whose spelling (`Id`, `NanoCpus`, `Dns`) differs from the swarm half's.
Durations are integer nanoseconds, sizes bytes.
"""

from collections.abc import Mapping

import msgspec
from msgspec import field

from shoal.model.names import always


class EngineWire(
    msgspec.Struct, frozen=True, kw_only=True, rename="pascal", omit_defaults=True
):
    """Base for the container half of the API."""


class HealthConfig(EngineWire, frozen=True, kw_only=True):
    """`Test` is `[]` (inherit), `["NONE"]`, `["CMD", ...]` or `["CMD-SHELL", line]`; ns."""

    test: tuple[str, ...] = ()
    interval: int = 0
    timeout: int = 0
    start_period: int = 0
    start_interval: int = 0
    retries: int = 0


class ContainerConfig(EngineWire, frozen=True, kw_only=True):
    """What belongs to the container wherever it runs; defaults come from the image."""

    hostname: str = always("")
    domainname: str = always("")
    user: str = always("")
    attach_stdin: bool = always(False)
    attach_stdout: bool = always(False)
    attach_stderr: bool = always(False)
    exposed_ports: Mapping[str, Mapping[str, str]] = field(default_factory=dict)
    tty: bool = always(False)
    open_stdin: bool = always(False)
    stdin_once: bool = always(False)
    env: tuple[str, ...] | None = always(None)
    cmd: tuple[str, ...] | str | None = always(None)
    healthcheck: HealthConfig | None = None
    args_escaped: bool = False
    image: str = always("")
    volumes: Mapping[str, Mapping[str, str]] | None = always(None)
    working_dir: str = always("")
    entrypoint: tuple[str, ...] | str | None = always(None)
    network_disabled: bool = False
    mac_address: str = ""
    labels: Mapping[str, str] = always({})
    stop_signal: str = ""
    stop_timeout: int | None = None
    shell: tuple[str, ...] = ()


class PortBinding(EngineWire, frozen=True, kw_only=True):
    """Where a container port is published; an empty or "0" port asks for a free one."""

    host_ip: str = field(name="HostIp", default_factory=str)
    host_port: str = always("")


class RestartPolicy(EngineWire, frozen=True, kw_only=True):
    """`no`, `always`, `unless-stopped` or `on-failure`, the last with a maximum (0: none)."""

    name: str = always("")
    maximum_retry_count: int = always(0)


class LogConfig(EngineWire, frozen=True, kw_only=True):
    """Driver and its options; `max-size` and `max-file` rotate."""

    type: str = always("")
    config: Mapping[str, str] = always({})


class Ulimit(EngineWire, frozen=True, kw_only=True):
    """One rlimit, by its name without `RLIMIT_`, in lower case; -1 is unlimited."""

    name: str
    soft: int = always(0)
    hard: int = always(0)


class DeviceMapping(EngineWire, frozen=True, kw_only=True):
    """A device of the host inside the container; permissions out of `rwm`."""

    path_on_host: str
    path_in_container: str = ""
    cgroup_permissions: str = "rwm"


class WeightDevice(EngineWire, frozen=True, kw_only=True):
    """A block device's weight, 10 to 1000, for this container."""

    path: str
    weight: int = always(0)


class ThrottleDevice(EngineWire, frozen=True, kw_only=True):
    """A bound on a block device: bytes or operations a second."""

    path: str
    rate: int = always(0)


class DeviceRequest(EngineWire, frozen=True, kw_only=True):
    """A request to a device driver such as `--gpus` makes."""

    driver: str = ""
    count: int = 0
    device_ids: tuple[str, ...] = field(name="DeviceIDs", default=())
    capabilities: tuple[tuple[str, ...], ...] = ()
    options: Mapping[str, str] = field(default_factory=dict)


class BindOptions(EngineWire, frozen=True, kw_only=True):
    """Options of a bind mount."""

    propagation: str = ""
    non_recursive: bool = False
    create_mountpoint: bool = False
    read_only_non_recursive: bool = False
    read_only_force_recursive: bool = False


class DriverConfig(EngineWire, frozen=True, kw_only=True):
    """A volume driver and its options."""

    name: str = ""
    options: Mapping[str, str] = field(default_factory=dict)


class VolumeOptions(EngineWire, frozen=True, kw_only=True):
    """Options of a volume mount; labels and driver are for a volume that is made by it."""

    no_copy: bool = False
    labels: Mapping[str, str] = field(default_factory=dict)
    subpath: str = ""
    driver_config: DriverConfig | None = None


class TmpfsOptions(EngineWire, frozen=True, kw_only=True):
    """Size in bytes (0: half of the memory), mode as a number, options as `[[key, value]]`."""

    size_bytes: int = 0
    mode: int = 0
    options: tuple[tuple[str, ...], ...] = ()


class Mount(EngineWire, frozen=True, kw_only=True):
    """One mount in the long form; used by services and by `--mount` alike."""

    type: str = ""
    source: str = ""
    target: str = ""
    read_only: bool = False
    consistency: str = ""
    bind_options: BindOptions | None = None
    volume_options: VolumeOptions | None = None
    tmpfs_options: TmpfsOptions | None = None


class HostConfig(EngineWire, frozen=True, kw_only=True):
    """What depends on the host: limits, mounts, ports, privileges."""

    binds: tuple[str, ...] | None = always(None)
    container_id_file: str = field(name="ContainerIDFile", default_factory=str)
    log_config: LogConfig = always(LogConfig())
    network_mode: str = always("")
    port_bindings: Mapping[str, tuple[PortBinding, ...]] = always({})
    restart_policy: RestartPolicy = always(RestartPolicy())
    auto_remove: bool = always(False)
    volume_driver: str = always("")
    volumes_from: tuple[str, ...] | None = always(None)
    annotations: Mapping[str, str] = field(default_factory=dict)
    console_size: tuple[int, int] = always((0, 0))
    cap_add: tuple[str, ...] | None = always(None)
    cap_drop: tuple[str, ...] | None = always(None)
    cgroupns_mode: str = always("")
    dns: tuple[str, ...] = always(())
    dns_options: tuple[str, ...] = always(())
    dns_search: tuple[str, ...] = always(())
    extra_hosts: tuple[str, ...] | None = always(None)
    group_add: tuple[str, ...] | None = always(None)
    ipc_mode: str = always("")
    cgroup: str = always("")
    links: tuple[str, ...] | None = always(None)
    oom_score_adj: int = always(0)
    pid_mode: str = always("")
    privileged: bool = always(False)
    publish_all_ports: bool = always(False)
    readonly_rootfs: bool = always(False)
    security_opt: tuple[str, ...] | None = always(None)
    storage_opt: Mapping[str, str] = field(default_factory=dict)
    tmpfs: Mapping[str, str] = field(default_factory=dict)
    uts_mode: str = field(name="UTSMode", default_factory=str)
    userns_mode: str = always("")
    shm_size: int = always(0)
    sysctls: Mapping[str, str] = field(default_factory=dict)
    runtime: str = always("")
    isolation: str = always("")
    cpu_shares: int = always(0)
    memory: int = always(0)
    nano_cpus: int = always(0)
    cgroup_parent: str = always("")
    blkio_weight: int = always(0)
    blkio_weight_device: tuple[WeightDevice, ...] | None = ()
    blkio_device_read_bps: tuple[ThrottleDevice, ...] | None = ()
    blkio_device_write_bps: tuple[ThrottleDevice, ...] | None = ()
    blkio_device_read_iops: tuple[ThrottleDevice, ...] | None = field(
        name="BlkioDeviceReadIOps", default=()
    )
    blkio_device_write_iops: tuple[ThrottleDevice, ...] | None = field(
        name="BlkioDeviceWriteIOps", default=()
    )
    cpu_period: int = always(0)
    cpu_quota: int = always(0)
    cpu_realtime_period: int = always(0)
    cpu_realtime_runtime: int = always(0)
    cpuset_cpus: str = always("")
    cpuset_mems: str = always("")
    devices: tuple[DeviceMapping, ...] = always(())
    device_cgroup_rules: tuple[str, ...] | None = always(None)
    device_requests: tuple[DeviceRequest, ...] | None = always(None)
    memory_reservation: int = always(0)
    memory_swap: int = always(0)
    memory_swappiness: int | None = always(None)
    oom_kill_disable: bool | None = always(None)
    pids_limit: int | None = always(None)
    ulimits: tuple[Ulimit, ...] | None = always(None)
    cpu_count: int = always(0)
    cpu_percent: int = always(0)
    io_maximum_iops: int = field(name="IOMaximumIOps", default_factory=int)
    io_maximum_bandwidth: int = field(name="IOMaximumBandwidth", default_factory=int)
    kernel_memory: int = 0
    kernel_memory_tcp: int = field(name="KernelMemoryTCP", default=0)
    mounts: tuple[Mount, ...] = ()
    masked_paths: tuple[str, ...] | None = always(None)
    readonly_paths: tuple[str, ...] | None = always(None)
    init: bool | None = None


class EndpointIPAMConfig(EngineWire, frozen=True, kw_only=True):
    """Addresses that the user wants on a network."""

    ipv4_address: str = field(name="IPv4Address", default="")
    ipv6_address: str = field(name="IPv6Address", default="")
    link_local_ips: tuple[str, ...] = field(name="LinkLocalIPs", default=())


class EndpointSettings(EngineWire, frozen=True, kw_only=True):
    """What the user asks of one network attachment; the engine adds what it became."""

    ipam_config: EndpointIPAMConfig | None = field(name="IPAMConfig", default=None)
    links: tuple[str, ...] = ()
    aliases: tuple[str, ...] = ()
    mac_address: str = ""
    driver_opts: Mapping[str, str] = field(default_factory=dict)
    gw_priority: int = 0


class NetworkingConfig(EngineWire, frozen=True, kw_only=True):
    """Networks by name."""

    endpoints_config: Mapping[str, EndpointSettings] = field(default_factory=dict)


class ContainerCreate(ContainerConfig, frozen=True, kw_only=True):
    """The body of `POST /containers/create`: the config, flattened, with the other two."""

    host_config: HostConfig = HostConfig()
    networking_config: NetworkingConfig = NetworkingConfig()
