"""Where a manager's data key lies, and whether it is locked away.

The key opens what is sealed in the store. Plain, it lies with the manager's other secrets. With
autolock it lies there sealed with the cluster's unlock key, and open only beside the sockets,
where a reboot leaves nothing and the host's orderly end takes it away: a crash of a process
locks nobody out. Written by `manager.secret_files`; the agent only asks whether it is locked.
"""

from pathlib import Path

from shoal.common.config import HostConfig

LOCKED = (
    "Swarm is encrypted and needs to be unlocked before it can be used. Please use "
    '"docker swarm unlock" to unlock it.'
)


def plain_key(config: HostConfig) -> Path:
    """Readable by whoever has the disk."""
    return config.manager_secrets / "data.key"


def sealed_key(config: HostConfig) -> Path:
    """Of use only with the unlock key."""
    return config.manager_secrets / "data.key.sealed"


def open_key(config: HostConfig) -> Path:
    """Of a locked cluster's manager that was unlocked since the host began."""
    return Path(config.run) / "data.key"


def is_locked(config: HostConfig) -> bool:
    """Whether this host's manager waits for the unlock key."""
    return (
        sealed_key(config).exists()
        and not open_key(config).exists()
        and not plain_key(config).exists()
    )


def lock(config: HostConfig) -> None:
    """From now on the unlock key is needed, where the cluster has one. Idempotent."""
    open_key(config).unlink(missing_ok=True)
