"""The order to make a cluster of one out of what this host's manager has, kept on disk.

Written by the agent for `docker swarm init --force-new-cluster`, read by the manager when it
starts and taken away when it is done: a crash on the way begins again.
"""

from pathlib import Path

_FILE = "force-new-cluster"


def order_recovery(state: str) -> None:
    """From its next start on, the manager of this host shall be the only one."""
    (Path(state) / _FILE).touch(mode=0o600)


def recovery_ordered(state: str) -> bool:
    """Whether the order stands."""
    return (Path(state) / _FILE).exists()


def recovery_done(state: str) -> None:
    """It was carried out, or is withdrawn. Idempotent."""
    (Path(state) / _FILE).unlink(missing_ok=True)
