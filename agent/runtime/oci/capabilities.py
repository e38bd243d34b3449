"""Which capabilities a container has, by Docker's rules. P.

Called by `agent.runtime.oci.process`, and by whoever compiles a seccomp profile.
"""

from collections.abc import Iterable

from shoal.model.errors import InvalidArgument

# Every capability up to Linux 5.9's last; the kernel refuses what it does not know.
ALL = (
    "CAP_CHOWN",
    "CAP_DAC_OVERRIDE",
    "CAP_DAC_READ_SEARCH",
    "CAP_FOWNER",
    "CAP_FSETID",
    "CAP_KILL",
    "CAP_SETGID",
    "CAP_SETUID",
    "CAP_SETPCAP",
    "CAP_LINUX_IMMUTABLE",
    "CAP_NET_BIND_SERVICE",
    "CAP_NET_BROADCAST",
    "CAP_NET_ADMIN",
    "CAP_NET_RAW",
    "CAP_IPC_LOCK",
    "CAP_IPC_OWNER",
    "CAP_SYS_MODULE",
    "CAP_SYS_RAWIO",
    "CAP_SYS_CHROOT",
    "CAP_SYS_PTRACE",
    "CAP_SYS_PACCT",
    "CAP_SYS_ADMIN",
    "CAP_SYS_BOOT",
    "CAP_SYS_NICE",
    "CAP_SYS_RESOURCE",
    "CAP_SYS_TIME",
    "CAP_SYS_TTY_CONFIG",
    "CAP_MKNOD",
    "CAP_LEASE",
    "CAP_AUDIT_WRITE",
    "CAP_AUDIT_CONTROL",
    "CAP_SETFCAP",
    "CAP_MAC_OVERRIDE",
    "CAP_MAC_ADMIN",
    "CAP_SYSLOG",
    "CAP_WAKE_ALARM",
    "CAP_BLOCK_SUSPEND",
    "CAP_AUDIT_READ",
    "CAP_PERFMON",
    "CAP_BPF",
    "CAP_CHECKPOINT_RESTORE",
)

DEFAULT = (
    "CAP_CHOWN",
    "CAP_DAC_OVERRIDE",
    "CAP_FSETID",
    "CAP_FOWNER",
    "CAP_MKNOD",
    "CAP_NET_RAW",
    "CAP_SETGID",
    "CAP_SETUID",
    "CAP_SETFCAP",
    "CAP_SETPCAP",
    "CAP_NET_BIND_SERVICE",
    "CAP_SYS_CHROOT",
    "CAP_KILL",
    "CAP_AUDIT_WRITE",
)


def capabilities(
    add: Iterable[str], drop: Iterable[str], *, privileged: bool
) -> tuple[str, ...]:
    """The set held, in the kernel's order; `ALL` stands for all in either list."""
    if privileged:
        return ALL
    added, dropped = _names(add, "CapAdd"), _names(drop, "CapDrop")
    if "ALL" in added:
        held = set(ALL) - dropped
    elif "ALL" in dropped:
        held = added
    else:
        held = (set(DEFAULT) - dropped) | added
    return tuple(name for name in ALL if name in held)


def _names(given: Iterable[str], field: str) -> set[str]:
    names: set[str] = set()
    for text in given:
        name = text.upper()
        if name != "ALL":
            name = f"CAP_{name.removeprefix('CAP_')}"
            if name not in ALL:
                raise InvalidArgument(
                    f'invalid {field}: unknown capability: "{text}"',
                    field=f"HostConfig.{field}",
                )
        names.add(name)
    return names
