"""Whether an ended container starts again, and after how long. Pure; Docker's numbers."""

from datetime import timedelta

from shoal.model.container import RestartPolicy
from shoal.model.errors import InvalidArgument

FIRST = timedelta(milliseconds=100)
FACTOR = 2
CAP = timedelta(minutes=1)
ATTEMPT_CAP = timedelta(seconds=5)
STEADY = timedelta(seconds=10)
"""A run at least this long forgets the failures before it."""

_NAMES = ("", "no", "always", "unless-stopped", "on-failure")


def check(policy: RestartPolicy) -> None:
    """Refuse a policy that Docker does not have."""
    if policy.name not in _NAMES:
        raise InvalidArgument(
            f"invalid restart policy: unknown policy '{policy.name}'; use one of 'no',"
            " 'always', 'on-failure', or 'unless-stopped'",
            field="HostConfig.RestartPolicy.Name",
        )
    if policy.maximum_retry_count < 0 or (
        policy.maximum_retry_count and policy.name != "on-failure"
    ):
        raise InvalidArgument(
            "invalid restart policy: maximum retry count can only be used with 'on-failure'"
            " and cannot be negative",
            field="HostConfig.RestartPolicy.MaximumRetryCount",
        )


def wanted(
    policy: RestartPolicy, *, exit_code: int, restarts: int, stopped_by_hand: bool
) -> bool:
    """Whether a container that has ended shall run again."""
    if stopped_by_hand:
        return False
    if policy.name in ("always", "unless-stopped"):
        return True
    if policy.name != "on-failure" or exit_code == 0:
        return False
    return policy.maximum_retry_count == 0 or restarts < policy.maximum_retry_count


def wanted_at_boot(policy: RestartPolicy, *, stopped_by_hand: bool, ran_before: bool) -> bool:
    """Whether a container that does not run starts with the agent, after a reboot say."""
    if not ran_before:
        return False
    return policy.name == "always" or (policy.name == "unless-stopped" and not stopped_by_hand)


def next_attempt(previous: timedelta | None) -> timedelta:
    """How long to wait when a start failed for want of what will come, such as a manager."""
    return FIRST if previous is None else min(previous * FACTOR, ATTEMPT_CAP)


def next_delay(previous: timedelta | None, ran: timedelta) -> timedelta:
    """How long to wait before the next start."""
    if previous is None or ran >= STEADY:
        return FIRST
    return min(previous * FACTOR, CAP)
