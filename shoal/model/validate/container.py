"""The rules of a service's container: image, environment, mounts, health check. Pure.

Called by `task`. What the agent finds out (a bind source that is not there) is not asked here.
"""

import re
from collections.abc import Mapping

from shoal.model.container import HealthConfig, Mount
from shoal.model.errors import InvalidArgument
from shoal.model.reference import parse_reference
from shoal.model.spec.task import ContainerSpec, Privileges
from shoal.model.template import Context, expand_container
from shoal.model.validate.references import check_references
from shoal.model.validate.refusal import invalid, unimplemented

CONTAINER = "TaskTemplate.ContainerSpec"
_LEAST_INTERVAL = 1_000_000  # ns
_PROPAGATIONS = ("private", "rprivate", "shared", "rshared", "slave", "rslave")
_HOSTNAME_LENGTH = 63
_CAPABILITY = re.compile(r"(?:CAP_)?[A-Z_]+|ALL")


def check_container(spec: ContainerSpec, service_name: str, labels: Mapping[str, str]) -> None:
    """Refuse a container that cannot be made, or not yet."""
    _check_image(spec.image)
    _check_environment(spec)
    _check_mounts(spec.mounts)
    _check_lists(spec)
    if spec.healthcheck is not None:
        _check_health(spec.healthcheck)
    if spec.stop_grace_period is not None and spec.stop_grace_period < 0:
        raise invalid(
            f"{CONTAINER}.StopGracePeriod", f"must not be negative: {spec.stop_grace_period}"
        )
    if spec.privileges is not None:
        _check_privileges(spec.privileges)
    _check_not_there(spec)
    check_references(spec)
    try:
        expand_container(spec, Context(service_name=service_name, service_labels=labels))
    except InvalidArgument as error:
        raise invalid(CONTAINER, str(error)) from error


def _check_image(image: str) -> None:
    if not image:
        raise invalid(f"{CONTAINER}.Image", "image reference must be provided")
    try:
        parse_reference(image)
    except InvalidArgument as error:
        raise invalid(
            f"{CONTAINER}.Image", f"{image!r} is not a valid repository/tag: {error}"
        ) from error


def _check_environment(spec: ContainerSpec) -> None:
    for position, entry in enumerate(spec.env):
        if not entry.partition("=")[0].strip():
            raise invalid(
                f"{CONTAINER}.Env[{position}]", f"{entry!r} must have a variable's name"
            )
    if spec.dir and not spec.dir.startswith("/"):
        raise invalid(f"{CONTAINER}.Dir", f"{spec.dir!r} must be an absolute path")
    if "{{" not in spec.hostname and len(spec.hostname) > _HOSTNAME_LENGTH:
        raise invalid(
            f"{CONTAINER}.Hostname", f"must be {_HOSTNAME_LENGTH} characters or fewer"
        )


def _check_mounts(mounts: tuple[Mount, ...]) -> None:
    targets: set[str] = set()
    for position, mount in enumerate(mounts):
        path = f"{CONTAINER}.Mounts[{position}]"
        _check_mount(mount, path)
        target = mount.target.rstrip("/") or "/"
        if target in targets:
            raise invalid(f"{path}.Target", f"duplicate mount point: {mount.target}")
        targets.add(target)


def _check_mount(mount: Mount, path: str) -> None:
    if mount.type not in ("bind", "volume", "tmpfs"):
        _refuse_type(mount.type, path)
    if not mount.target:
        raise invalid(f"{path}.Target", "must not be empty")
    if not mount.target.startswith(("/", "{{")):
        raise invalid(f"{path}.Target", f"{mount.target!r} must be an absolute path")
    if mount.target.rstrip("/") == "":
        raise invalid(f"{path}.Target", "destination can't be '/'")
    _check_source(mount, path)
    for kind, name, options in (
        ("bind", "BindOptions", mount.bind_options),
        ("volume", "VolumeOptions", mount.volume_options),
        ("tmpfs", "TmpfsOptions", mount.tmpfs_options),
    ):
        if options is not None and mount.type != kind:
            raise invalid(
                f"{path}.{name}", f"must not be given for a mount of type {mount.type}"
            )
    if mount.bind_options is not None and mount.bind_options.propagation:
        _check_propagation(mount.bind_options.propagation, path)
    if mount.tmpfs_options is not None and mount.tmpfs_options.size_bytes < 0:
        raise invalid(f"{path}.TmpfsOptions.SizeBytes", "must not be negative")


def _check_source(mount: Mount, path: str) -> None:
    match mount.type:
        case "bind" if not mount.source:
            raise invalid(f"{path}.Source", "must not be empty for a bind mount")
        case "bind" if not mount.source.startswith(("/", "{{")):
            raise invalid(
                f"{path}.Source",
                f"invalid bind mount source {mount.source!r}: must be an absolute path",
            )
        case "volume" if mount.source.startswith("/"):
            raise invalid(
                f"{path}.Source",
                f"invalid volume mount source {mount.source!r}: must not be an absolute path",
            )
        case "tmpfs" if mount.source:
            raise invalid(f"{path}.Source", "must be empty for a tmpfs mount")
        case _:
            return


def _check_propagation(propagation: str, path: str) -> None:
    if propagation not in _PROPAGATIONS:
        raise invalid(
            f"{path}.BindOptions.Propagation",
            f"{propagation!r} is none of {', '.join(_PROPAGATIONS)}",
        )


def _refuse_type(kind: str, path: str) -> None:
    if kind == "cluster":
        raise unimplemented(f"{path}.Type", "cluster (CSI) volumes are not supported yet")
    if kind in ("image", "npipe"):
        raise unimplemented(f"{path}.Type", f"mounts of type {kind} are not supported")
    raise invalid(f"{path}.Type", f"{kind!r} is none of bind, volume, tmpfs")


def _check_health(health: HealthConfig) -> None:
    path = f"{CONTAINER}.Healthcheck"
    for name, value in (
        ("Interval", health.interval),
        ("Timeout", health.timeout),
        ("StartPeriod", health.start_period),
        ("StartInterval", health.start_interval),
    ):
        if value and value < _LEAST_INTERVAL:
            raise invalid(f"{path}.{name}", "cannot be less than 1ms")
    if health.retries < 0:
        raise invalid(f"{path}.Retries", f"cannot be negative: {health.retries}")
    if health.test and health.test[0] not in ("NONE", "CMD", "CMD-SHELL"):
        raise invalid(f"{path}.Test", f"must begin with NONE, CMD or CMD-SHELL: {health.test}")
    if health.test and health.test[0] != "NONE" and len(health.test) < 2:
        raise invalid(f"{path}.Test", f"{health.test[0]} must be followed by a command")


def _check_lists(spec: ContainerSpec) -> None:
    for position, limit in enumerate(spec.ulimits):
        path = f"{CONTAINER}.Ulimits[{position}]"
        if not limit.name:
            raise invalid(f"{path}.Name", "must be given")
        if limit.soft > limit.hard != -1:
            raise invalid(path, f"soft limit {limit.soft} is above the hard limit {limit.hard}")
    for name, given in (
        ("CapabilityAdd", spec.capability_add),
        ("CapabilityDrop", spec.capability_drop),
    ):
        for position, capability in enumerate(given):
            if not _CAPABILITY.fullmatch(capability.upper()):
                raise invalid(
                    f"{CONTAINER}.{name}[{position}]", f"{capability!r} is no capability"
                )
    for position, entry in enumerate(spec.hosts):
        if len(entry.split()) < 2:
            raise invalid(
                f"{CONTAINER}.Hosts[{position}]", f"{entry!r} must be an address and a name"
            )
    if not -1000 <= spec.oom_score_adj <= 1000:
        raise invalid(
            f"{CONTAINER}.OomScoreAdj",
            f"must be between -1000 and 1000, not {spec.oom_score_adj}",
        )


def _check_privileges(privileges: Privileges) -> None:
    path = f"{CONTAINER}.Privileges"
    if privileges.credential_spec:
        raise unimplemented(f"{path}.CredentialSpec", "credential specs are for Windows only")
    if privileges.selinux_context is not None:
        raise unimplemented(f"{path}.SELinuxContext", "SELinux labels are not supported yet")
    seccomp = privileges.seccomp
    if seccomp is not None and seccomp.mode not in ("", "default", "unconfined", "custom"):
        raise invalid(
            f"{path}.Seccomp.Mode", f"{seccomp.mode!r} is none of default, unconfined, custom"
        )
    if seccomp is not None and (seccomp.mode == "custom") != bool(seccomp.profile):
        raise invalid(f"{path}.Seccomp.Profile", "must be given with mode custom and only then")
    armor = privileges.app_armor
    if armor is not None and armor.mode not in ("", "default", "disabled"):
        raise invalid(f"{path}.AppArmor.Mode", f"{armor.mode!r} is none of default, disabled")


def _check_not_there(spec: ContainerSpec) -> None:
    """What would be right in Swarm and has nothing behind it yet."""
    if spec.isolation not in ("", "default"):
        raise unimplemented(
            f"{CONTAINER}.Isolation", f"isolation {spec.isolation!r} is for Windows only"
        )
