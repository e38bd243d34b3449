"""The rules of a container's settings that services and a person's containers share. Pure.

Each takes the path of the field and the wording of its half of the API: `container` calls them
for services, `agent.engine.checking` for a person's containers and, once more, for tasks.
"""

import re
from collections.abc import Iterable, Mapping
from ipaddress import ip_address
from typing import Protocol

from shoal.model import signals
from shoal.model.container import HealthConfig
from shoal.model.errors import InvalidArgument
from shoal.model.linux import RLIMITS, capability
from shoal.model.log_options import refusal
from shoal.model.validate.refusal import Wording

GATEWAY = "host-gateway"
"""In place of an address of `--add-host`: the host, as the container sees it."""

_LABEL = r"[A-Za-z0-9_](?:[A-Za-z0-9_.-]*[A-Za-z0-9_])?"
_HOSTNAME = re.compile(_LABEL, re.ASCII)
_LONGEST_HOSTNAME = 63  # the kernel takes 64
_LEAST_INTERVAL = 1_000_000  # ns
_SYSCTL = re.compile(r"[a-zA-Z0-9_-]+(?:[./][a-zA-Z0-9_-]+)+", re.ASCII)
_IPC_WORDS = """
kernel.msgmax kernel.msgmnb kernel.msgmni kernel.sem kernel.shmall kernel.shmmax kernel.shmmni
kernel.shm_rmid_forced kernel.domainname
"""
_OWN_SYSCTLS = frozenset(_IPC_WORDS.split())


class Ulimit(Protocol):
    """One limit, in either half's spelling."""

    @property
    def name(self) -> str: ...
    @property
    def soft(self) -> int: ...
    @property
    def hard(self) -> int: ...


def is_dockers_own(option: str) -> bool:
    """Whether an option of a network's place has a meaning; others are kept like labels."""
    return option.startswith("com.docker.network.")


def check_environment(entries: Iterable[str], path: str, wording: Wording) -> None:
    """`NAME=value` or `NAME`."""
    for position, entry in enumerate(entries):
        if not entry.partition("=")[0]:
            raise wording.invalid(
                f"{path}[{position}]", f"invalid environment variable: {entry}"
            )


def check_hostname(name: str, path: str, wording: Wording) -> None:
    """A name that a host may have; none is fine."""
    if name and not (_HOSTNAME.fullmatch(name) and len(name) <= _LONGEST_HOSTNAME):
        raise wording.invalid(
            path,
            f"invalid hostname format: {name!r}: up to {_LONGEST_HOSTNAME} letters, digits,"
            " '.', '-' and '_', beginning and ending with a letter or digit",
        )


def check_directory(text: str, path: str, wording: Wording) -> None:
    """The working directory."""
    if text and not text.startswith("/"):
        raise wording.invalid(
            path,
            f"the working directory '{text}' is invalid, it needs to be an absolute path",
        )


def check_signal(text: str, path: str, wording: Wording) -> None:
    """A signal by name or number; none is fine."""
    try:
        signals.parse(text)
    except InvalidArgument as error:
        raise wording.invalid(path, str(error)) from error


def check_health(health: HealthConfig, path: str, wording: Wording) -> None:
    """A health check that can be run."""
    for name, value in (
        ("Interval", health.interval),
        ("Timeout", health.timeout),
        ("StartPeriod", health.start_period),
        ("StartInterval", health.start_interval),
    ):
        if value and value < _LEAST_INTERVAL:
            raise wording.invalid(
                f"{path}.{name}", f"{name} in Healthcheck cannot be less than 1ms"
            )
    if health.retries < 0:
        raise wording.invalid(
            f"{path}.Retries", f"Retries in Healthcheck cannot be negative: {health.retries}"
        )
    kind = health.test[0] if health.test else "NONE"
    if kind not in ("NONE", "CMD", "CMD-SHELL"):
        raise wording.invalid(
            f"{path}.Test", f"unknown health check type {kind!r}: use NONE, CMD or CMD-SHELL"
        )
    if kind != "NONE" and len(health.test) < 2:
        raise wording.invalid(f"{path}.Test", f"{kind} must be followed by a command")


def check_ulimits(limits: Iterable[Ulimit], path: str, wording: Wording) -> None:
    """Limits that the kernel has, the soft one within the hard one; -1 is no limit."""
    for position, limit in enumerate(limits):
        below = f"{path}[{position}]"
        if limit.name not in RLIMITS:
            raise wording.invalid(f"{below}.Name", f"invalid ulimit type: {limit.name}")
        if min(limit.soft, limit.hard) < -1:
            raise wording.invalid(
                below, f"ulimit {limit.name} must be a number, or -1 for no limit"
            )
        if limit.hard != -1 and not 0 <= limit.soft <= limit.hard:
            raise wording.invalid(
                below,
                "ulimit soft limit must be less than or equal to hard limit:"
                f" {limit.soft} > {limit.hard}",
            )


def check_capabilities(names: Iterable[str], path: str, wording: Wording) -> None:
    """Capabilities by name, with or without `CAP_`, or `ALL`."""
    for position, name in enumerate(names):
        if capability(name) is None:
            field = path.rpartition(".")[2]
            raise wording.invalid(
                f"{path}[{position}]", f'invalid {field}: unknown capability: "{name}"'
            )


def check_host(name: str, address: str, path: str, wording: Wording) -> None:
    """An entry for /etc/hosts."""
    if not _HOSTNAME.fullmatch(name):
        raise wording.invalid(path, f'bad format for add-host: "{name}" is no host name')
    if address != GATEWAY and not _is_address(address):
        raise wording.invalid(path, f'invalid IP address in add-host: "{address}"')


def check_name_servers(servers: Iterable[str], path: str, wording: Wording) -> None:
    """Name servers by address."""
    for position, server in enumerate(servers):
        if not _is_address(server):
            raise wording.invalid(
                f"{path}[{position}]",
                f"invalid IP address: {server}: DNS servers are addresses",
            )


def check_words(words: Iterable[str], path: str, wording: Wording) -> None:
    """Search domains and options of a resolv.conf: each one word."""
    for position, word in enumerate(words):
        if not (word and word.isascii() and word.isprintable()) or " " in word:
            raise wording.invalid(f"{path}[{position}]", f"{word!r} is not one word")


def check_sysctls(names: Iterable[str], path: str, wording: Wording) -> None:
    """Sysctls that belong to a container's namespaces."""
    for name in names:
        dotted = name.replace("/", ".")
        inside = dotted.startswith(("net.", "fs.mqueue.")) or dotted in _OWN_SYSCTLS
        if not (inside and _SYSCTL.fullmatch(name)):
            raise wording.invalid(
                f"{path}.{name}",
                f"sysctl {name!r} is not in a separate kernel namespace: net.*, fs.mqueue.*"
                " and those of the IPC namespace can be set",
            )


def check_logging(
    driver: str, options: Mapping[str, str], paths: tuple[str, str], wording: Wording
) -> None:
    """A log driver and options that there are; `paths` lead to both."""
    found = refusal(driver, options)
    if found is None:
        return
    path = f"{paths[1]}.{found.option}" if found.option else paths[0]
    raise (wording.unimplemented if found.missing else wording.invalid)(path, found.sentence)


def check_oom_score(score: int, path: str, wording: Wording) -> None:
    """A bias for the kernel's choice."""
    if not -1000 <= score <= 1000:
        raise wording.invalid(
            path, f"Invalid value {score}, range for oom score adj is [-1000, 1000]"
        )


def check_label_names(labels: Iterable[str], path: str, wording: Wording) -> None:
    """Labels have names."""
    if any(not key.strip() for key in labels):
        raise wording.invalid(path, "invalid Labels: a label must have a name")


def _is_address(text: str) -> bool:
    try:
        ip_address(text)
    except ValueError:
        return False
    return "%" not in text
