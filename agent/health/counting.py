"""Probe results to starting, healthy, unhealthy. Pure; the rules and numbers are Docker's.

Failures inside the start period do not count, unless a success has ended it; while starting,
and inside that period, probes follow each other by the start interval.
"""

from datetime import datetime, timedelta
from typing import Literal

import msgspec
from msgspec.structs import replace

from shoal.model.container import HealthConfig

Status = Literal["starting", "healthy", "unhealthy"]

LOG_LENGTH = 5
OUTPUT_LIMIT = 4096
_SECOND = 1_000_000_000
_INTERVAL, _TIMEOUT, _RETRIES, _START_INTERVAL = 30 * _SECOND, 30 * _SECOND, 3, 5 * _SECOND
_SHELL = ("/bin/sh", "-c")


class ProbeResult(msgspec.Struct, frozen=True, kw_only=True):
    """One finished probe; code 0 is good, -1 is a probe that did not finish in time."""

    start: datetime
    end: datetime
    exit_code: int
    output: str


class Health(msgspec.Struct, frozen=True, kw_only=True):
    """Where a container's health stands."""

    status: Status = "starting"
    failing_streak: int = 0
    log: tuple[ProbeResult, ...] = ()


def command(config: HealthConfig | None, shell: tuple[str, ...]) -> tuple[str, ...] | None:
    """What a probe runs; None where the container has no health check."""
    if config is None or len(config.test) < 2 or config.test[0] == "NONE":
        return None
    if config.test[0] == "CMD-SHELL":
        return (*(shell or _SHELL), config.test[1])
    return config.test[1:]


def timeout(config: HealthConfig) -> float:
    """Seconds a probe may take."""
    return (config.timeout or _TIMEOUT) / _SECOND


def next_in(config: HealthConfig, health: Health, started: datetime, now: datetime) -> float:
    """Seconds until the next probe."""
    if health.status == "starting" and _starting(config, started, now):
        return (config.start_interval or _START_INTERVAL) / _SECOND
    return (config.interval or _INTERVAL) / _SECOND


def count(
    config: HealthConfig, health: Health, started: datetime, result: ProbeResult
) -> Health:
    """The health after one more probe."""
    log = (*health.log, result)[-LOG_LENGTH:]
    if result.exit_code == 0:
        return Health(status="healthy", failing_streak=0, log=log)
    if health.status == "starting" and _starting(config, started, result.start):
        return replace(health, log=log)
    streak = health.failing_streak + 1
    bad = streak >= (config.retries or _RETRIES)
    status: Status = "unhealthy" if bad else health.status
    return Health(status=status, failing_streak=streak, log=log)


def _starting(config: HealthConfig, started: datetime, at: datetime) -> bool:
    return at - started < timedelta(microseconds=config.start_period / 1000)
