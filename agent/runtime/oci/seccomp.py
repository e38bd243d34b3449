"""The seccomp filter of a container, in the form that runc takes. P.

`seccomp.json` lies beside this module. It was derived from Debian's
golang-github-containers-common (Apache-2.0), which is looser than Docker's profile: calls that
make or enter namespaces and mounts need CAP_SYS_ADMIN (`clone` may pass without namespace
flags, `clone3` answers ENOSYS so that libc falls back to `clone`); reboot, memory policy,
pidfd_getfd and syslog need their capability; keyctl and pivot_root are out; AF_VSOCK sockets
are refused. What is not allowed answers EPERM, as under Docker, so explicit EPERM rules are not
needed.

runc's own format knows no `archMap`, `includes` or `excludes` and ignores them in silence; that
is why nothing may be handed to it but what `compile_profile` returns. Called by
`agent.runtime.oci.bundle`; whoever loads the JSON (the engine) keeps it.
"""

from collections.abc import Sequence
from importlib.resources import files
from typing import Any

import msgspec

from shoal.model.errors import InvalidArgument

# What `platform.machine()` says -> (name in rules, name in runc's format)
MACHINES = {
    "x86_64": ("amd64", "SCMP_ARCH_X86_64"),
    "aarch64": ("arm64", "SCMP_ARCH_AARCH64"),
    "s390x": ("s390x", "SCMP_ARCH_S390X"),
    "ppc64le": ("ppc64le", "SCMP_ARCH_PPC64LE"),
    "riscv64": ("riscv64", "SCMP_ARCH_RISCV64"),
}


class Conditions(msgspec.Struct, frozen=True):
    """When a rule holds: all capabilities named, one of the architectures named."""

    caps: tuple[str, ...] = ()
    arches: tuple[str, ...] = ()


class Rule(msgspec.Struct, frozen=True, rename="camel"):
    """One rule of a profile in Docker's format."""

    action: str
    names: tuple[str, ...] = ()
    name: str = ""
    args: tuple[dict[str, Any], ...] | None = None
    errno_ret: int | None = None
    includes: Conditions | None = None
    excludes: Conditions | None = None


class ArchMap(msgspec.Struct, frozen=True, rename="camel"):
    """An architecture and those whose programs run on it too."""

    architecture: str
    sub_architectures: tuple[str, ...] | None = None


class Profile(msgspec.Struct, frozen=True, rename="camel"):
    """A profile in Docker's format, as `--security-opt seccomp=FILE` takes it."""

    default_action: str
    default_errno_ret: int | None = None
    arch_map: tuple[ArchMap, ...] | None = None
    architectures: tuple[str, ...] | None = None
    syscalls: tuple[Rule, ...] | None = None
    flags: tuple[str, ...] | None = None


def default_profile() -> Profile:
    """The profile that comes with the package."""
    text = (files("agent.runtime.oci") / "seccomp.json").read_bytes()
    return msgspec.json.decode(text, type=Profile)


def parse_profile(text: str) -> Profile:
    """A user's own profile."""
    try:
        return msgspec.json.decode(text, type=Profile)
    except msgspec.DecodeError as error:
        raise InvalidArgument(
            f"decoding seccomp profile failed: {error}", field="HostConfig.SecurityOpt"
        ) from error


def compile_profile(
    profile: Profile, capabilities: Sequence[str], machine: str, *, full: bool = False
) -> dict[str, Any]:
    """The filter for these capabilities on this machine (`platform.machine()`).

    Compiling costs every start and exec up to 22 ms, so by default it is for the native
    architecture only and leaves out rules that repeat the default; then 32-bit programs are
    killed. `full` keeps both.
    """
    arch, native = MACHINES.get(machine, (machine, ""))
    rules = [
        _plain(rule)
        for rule in profile.syscalls or ()
        if _holds(rule, frozenset(capabilities), arch)
        and (full or not _repeats_default(rule, profile))
    ]
    result: dict[str, Any] = {"defaultAction": profile.default_action, "syscalls": rules}
    architectures = _architectures(profile, native, full=full)
    if architectures:
        result["architectures"] = architectures
    if profile.default_errno_ret is not None:
        result["defaultErrnoRet"] = profile.default_errno_ret
    if profile.flags:
        result["flags"] = list(profile.flags)
    return result


def _holds(rule: Rule, capabilities: frozenset[str], arch: str) -> bool:
    includes = rule.includes or Conditions()
    excludes = rule.excludes or Conditions()
    if includes.arches and arch not in includes.arches:
        return False
    if not capabilities.issuperset(includes.caps):
        return False
    return arch not in excludes.arches and capabilities.isdisjoint(excludes.caps)


def _repeats_default(rule: Rule, profile: Profile) -> bool:
    """A rule that answers what the default answers anyway.

    Errors with another number are kept; a rule without a number means EPERM (1).
    """
    return (
        rule.action == profile.default_action
        and not rule.args
        and (rule.errno_ret or 1) == (profile.default_errno_ret or 1)
    )


def _plain(rule: Rule) -> dict[str, Any]:
    names = [*rule.names, *([rule.name] if rule.name else [])]
    plain: dict[str, Any] = {"names": names, "action": rule.action}
    if rule.args:
        plain["args"] = list(rule.args)
    if rule.errno_ret is not None:
        plain["errnoRet"] = rule.errno_ret
    return plain


def _architectures(profile: Profile, native: str, *, full: bool) -> list[str]:
    if profile.architectures:
        return list(profile.architectures)
    for entry in profile.arch_map or ():
        if entry.architecture == native and full:
            return [native, *(entry.sub_architectures or ())]
    return [native] if native else []
