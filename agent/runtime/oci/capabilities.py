"""Which capabilities a container has, by Docker's rules. P. Called by `bundle` and for execs."""

from collections.abc import Iterable

from shoal.model.errors import InvalidArgument

# Every capability up to Linux 5.9's last; the kernel refuses what it does not know.
ALL = tuple(
    f"CAP_{name}"
    for name in (
        "CHOWN DAC_OVERRIDE DAC_READ_SEARCH FOWNER FSETID KILL SETGID SETUID SETPCAP"
        " LINUX_IMMUTABLE NET_BIND_SERVICE NET_BROADCAST NET_ADMIN NET_RAW IPC_LOCK IPC_OWNER"
        " SYS_MODULE SYS_RAWIO SYS_CHROOT SYS_PTRACE SYS_PACCT SYS_ADMIN SYS_BOOT SYS_NICE"
        " SYS_RESOURCE SYS_TIME SYS_TTY_CONFIG MKNOD LEASE AUDIT_WRITE AUDIT_CONTROL SETFCAP"
        " MAC_OVERRIDE MAC_ADMIN SYSLOG WAKE_ALARM BLOCK_SUSPEND AUDIT_READ PERFMON BPF"
        " CHECKPOINT_RESTORE"
    ).split()
)

DEFAULT = tuple(
    f"CAP_{name}"
    for name in (
        "CHOWN DAC_OVERRIDE FSETID FOWNER MKNOD NET_RAW SETGID SETUID SETFCAP SETPCAP"
        " NET_BIND_SERVICE SYS_CHROOT KILL AUDIT_WRITE"
    ).split()
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
