"""Which capabilities a container has, by Docker's rules. P.

Called by `agent.runtime.oci.process`, and by whoever compiles a seccomp profile.
"""

from collections.abc import Iterable

from shoal.model.errors import InvalidArgument
from shoal.model.linux import CAPABILITIES, capability

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
    add: Iterable[str],
    drop: Iterable[str],
    *,
    privileged: bool,
    known: Iterable[str] = CAPABILITIES,
) -> tuple[str, ...]:
    """The set held, in the kernel's order; `ALL` stands for all in either list.

    All are those that this host can give, which is `known`.
    """
    every = set(known)
    if privileged:
        return tuple(name for name in CAPABILITIES if name in every)
    added, dropped = _names(add, "CapAdd"), _names(drop, "CapDrop")
    if "ALL" in added:
        held = every - dropped
    elif "ALL" in dropped:
        held = added
    else:
        held = (set(DEFAULT) - dropped) | added
    return tuple(name for name in CAPABILITIES if name in held)


def of_mask(mask: int) -> tuple[str, ...]:
    """The capabilities of a set as the kernel shows it, such as `CapBnd` in /proc."""
    return tuple(name for bit, name in enumerate(CAPABILITIES) if mask >> bit & 1)


def _names(given: Iterable[str], field: str) -> set[str]:
    names: set[str] = set()
    for text in given:
        name = capability(text)
        if name is None:
            raise InvalidArgument(
                f'invalid {field}: unknown capability: "{text}"', field=f"HostConfig.{field}"
            )
        names.add(name)
    return names
