"""The rules of a service's container: image, environment, mounts, health check. Pure.

Called by `task`. What the agent finds out (a bind source that is not there) is not asked here;
what a person's container must obey too is in `settings` and `mounts`.
"""

from collections.abc import Mapping

import msgspec

from shoal.model.errors import InvalidArgument
from shoal.model.reference import parse_reference
from shoal.model.spec.task import ContainerSpec, Privileges
from shoal.model.template import Context, expand_container
from shoal.model.validate import settings
from shoal.model.validate.mounts import check_mounts
from shoal.model.validate.references import check_references
from shoal.model.validate.refusal import OF_CLUSTER, invalid, unimplemented

CONTAINER = "TaskTemplate.ContainerSpec"


def check_container(spec: ContainerSpec, service_name: str, labels: Mapping[str, str]) -> None:
    """Refuse a container that cannot be made, or not yet."""
    _check_image(spec.image)
    settings.check_environment(spec.env, f"{CONTAINER}.Env", OF_CLUSTER)
    try:
        expanded = expand_container(
            spec, Context(service_name=service_name, service_labels=labels)
        )
    except InvalidArgument as error:
        raise invalid(CONTAINER, str(error)) from error
    settings.check_hostname(expanded.hostname, f"{CONTAINER}.Hostname", OF_CLUSTER)
    check_mounts(expanded.mounts, f"{CONTAINER}.Mounts", OF_CLUSTER)
    _check_process(spec)
    _check_names(spec)
    if spec.privileges is not None:
        _check_privileges(spec.privileges)
    _check_not_there(spec)
    check_references(spec)


def _check_image(image: str) -> None:
    if not image:
        raise invalid(f"{CONTAINER}.Image", "image reference must be provided")
    try:
        parse_reference(image)
    except InvalidArgument as error:
        raise invalid(
            f"{CONTAINER}.Image", f"{image!r} is not a valid repository/tag: {error}"
        ) from error


def _check_process(spec: ContainerSpec) -> None:
    """What its first process is given, and how it ends."""
    settings.check_label_names(spec.labels, f"{CONTAINER}.Labels", OF_CLUSTER)
    settings.check_directory(spec.dir, f"{CONTAINER}.Dir", OF_CLUSTER)
    settings.check_signal(spec.stop_signal, f"{CONTAINER}.StopSignal", OF_CLUSTER)
    if spec.stop_grace_period is not None and spec.stop_grace_period < 0:
        raise invalid(
            f"{CONTAINER}.StopGracePeriod", f"must not be negative: {spec.stop_grace_period}"
        )
    if spec.healthcheck is not None:
        settings.check_health(spec.healthcheck, f"{CONTAINER}.Healthcheck", OF_CLUSTER)
    settings.check_oom_score(spec.oom_score_adj, f"{CONTAINER}.OomScoreAdj", OF_CLUSTER)
    settings.check_ulimits(spec.ulimits, f"{CONTAINER}.Ulimits", OF_CLUSTER)
    settings.check_sysctls(spec.sysctls, f"{CONTAINER}.Sysctls", OF_CLUSTER)
    for name, given in (
        ("CapabilityAdd", spec.capability_add),
        ("CapabilityDrop", spec.capability_drop),
    ):
        settings.check_capabilities(given, f"{CONTAINER}.{name}", OF_CLUSTER)


def _check_names(spec: ContainerSpec) -> None:
    """How it looks names up."""
    for position, entry in enumerate(spec.hosts):
        path, words = f"{CONTAINER}.Hosts[{position}]", entry.split()
        if len(words) < 2:
            raise invalid(path, f"{entry!r} must be an address and a name")
        settings.check_host(words[1], words[0], path, OF_CLUSTER)
    dns, path = spec.dns_config, f"{CONTAINER}.DNSConfig"
    if dns is not None:
        settings.check_name_servers(dns.nameservers, f"{path}.Nameservers", OF_CLUSTER)
        settings.check_words(dns.search, f"{path}.Search", OF_CLUSTER)
        settings.check_words(dns.options, f"{path}.Options", OF_CLUSTER)


def _check_privileges(privileges: Privileges) -> None:
    path = f"{CONTAINER}.Privileges"
    if privileges.credential_spec:
        raise unimplemented(f"{path}.CredentialSpec", "credential specs are for Windows only")
    labels = privileges.selinux_context
    if labels is not None and (labels.user or labels.role or labels.type or labels.level):
        raise unimplemented(f"{path}.SELinuxContext", "SELinux labels are not supported yet")
    seccomp = privileges.seccomp
    if seccomp is not None and seccomp.mode not in ("", "default", "unconfined", "custom"):
        raise invalid(
            f"{path}.Seccomp.Mode", f"{seccomp.mode!r} is none of default, unconfined, custom"
        )
    if seccomp is not None and (seccomp.mode == "custom") != bool(seccomp.profile):
        raise invalid(f"{path}.Seccomp.Profile", "must be given with mode custom and only then")
    if seccomp is not None and seccomp.profile:
        _check_profile(seccomp.profile, f"{path}.Seccomp.Profile")
    armor = privileges.app_armor
    if armor is not None and armor.mode not in ("", "default", "disabled"):
        raise invalid(f"{path}.AppArmor.Mode", f"{armor.mode!r} is none of default, disabled")


def _check_profile(profile: bytes, path: str) -> None:
    try:
        msgspec.json.decode(profile, type=dict[str, object])
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise invalid(path, f"must be a profile in JSON: {error}") from error


def _check_not_there(spec: ContainerSpec) -> None:
    """What would be right in Swarm and has nothing behind it yet."""
    if spec.isolation not in ("", "default"):
        raise unimplemented(
            f"{CONTAINER}.Isolation", f"isolation {spec.isolation!r} is for Windows only"
        )
