"""Log drivers and their options: which there are, and what is said with a line. Pure.

Called for services by `validate.task`, for containers by the agent, which have their own ways
to put a refusal. Rotation is read from the options by the agent.
"""

import re
from collections.abc import Iterable, Mapping

import msgspec

from shoal.model.numbers import whole
from shoal.model.units import parse_size

DRIVERS = ("json-file", "local", "none")
_OTHER_DRIVERS = frozenset(
    ["awslogs", "etwlogs", "fluentd", "gcplogs", "gelf", "journald", "splunk", "syslog"]
)
_ROTATION = frozenset({"max-size", "max-file", "compress", "mode", "max-buffer-size"})
_DETAILS = frozenset({"labels", "labels-regex", "env", "env-regex", "tag"})
_TAG_FIELDS = ("ID", "FullID", "Name", "ImageID", "ImageFullID", "ImageName", "DaemonName")
_ACTION = re.compile(r"\{\{\s*\.?([^{}]*?)\s*\}\}")
_SHORT = 12


class Refusal(msgspec.Struct, frozen=True, kw_only=True):
    """What is wrong; `missing` is what would be right and has nothing behind it."""

    option: str
    sentence: str
    missing: bool = False


class Logged(msgspec.Struct, frozen=True, kw_only=True):
    """Whose lines they are."""

    id: str
    name: str
    image_id: str
    image: str
    daemon: str = "docker"
    labels: Mapping[str, str] = {}
    env: tuple[str, ...] = ()


def refusal(driver: str, options: Mapping[str, str]) -> Refusal | None:
    """Why this host does not log so; None where it does. No driver is `json-file`."""
    if driver in _OTHER_DRIVERS:
        there = ", ".join(DRIVERS)
        sentence = f"log driver {driver!r} is not supported; there are {there}"
        return Refusal(option="", sentence=sentence, missing=True)
    if driver and driver not in DRIVERS:
        sentence = f"logger: no log driver named '{driver}' is registered"
        return Refusal(option="", sentence=sentence)
    name = driver or "json-file"
    known = {"none": frozenset[str](), "local": _ROTATION}.get(name, _ROTATION | _DETAILS)
    for option, value in options.items():
        if option not in known:
            has = f"it has {', '.join(sorted(known))}" if known else "it has none"
            sentence = f"unknown log opt '{option}' for {name} log driver: {has}"
            return Refusal(option=option, sentence=sentence)
        if (found := _wrong(option, value)) is not None:
            return found
    return None


def _wrong(option: str, value: str) -> Refusal | None:
    wrong, missing = "", False
    match option:
        case "max-size":
            wrong = "" if _is_size(value) else f"{value!r} is no size such as 10m"
        case "max-file":
            wrong = "" if whole(value) else f"{value!r} is no number of files above 0"
        case "compress" if value not in ("true", "false"):
            wrong = f"{value!r} is neither true nor false"
        case "compress" if value == "true":
            wrong, missing = "compressing rotated logs is not supported: leave it out", True
        case "mode" if value not in ("blocking", "non-blocking"):
            wrong = f"{value!r} is neither blocking nor non-blocking"
        case "mode" if value == "non-blocking":
            wrong = "lines are never dropped: non-blocking is not supported, leave it out"
            missing = True
        case "max-buffer-size":
            wrong, missing = "is for mode non-blocking, which is not supported", True
        case "tag":
            wrong = _unknown_field(value)
        case "labels-regex" | "env-regex":
            wrong = "" if _is_pattern(value) else f"{value!r} is no regular expression"
        case _:
            pass
    sentence = f"log opt '{option}': {wrong}"
    return Refusal(option=option, sentence=sentence, missing=missing) if wrong else None


def _is_size(text: str) -> bool:
    try:
        return parse_size(text) > 0
    except ValueError:
        return False


def _is_pattern(text: str) -> bool:
    try:
        re.compile(text)
    except re.error:
        return False
    return True


def _unknown_field(tag: str) -> str:
    for found in _ACTION.finditer(tag):
        if found.group(1) not in _TAG_FIELDS:
            there = ", ".join(f".{name}" for name in _TAG_FIELDS)
            return f"{found.group(0)} is not understood; there are {there}"
    return ""


def said_with_lines(options: Mapping[str, str], logged: Logged) -> Mapping[str, str]:
    """What `docker logs --details` shows: the labels and variables asked for, and the tag."""
    variables = dict(entry.split("=", 1) for entry in logged.env if "=" in entry)
    found = _chosen(options, "labels", logged.labels) | _chosen(options, "env", variables)
    if tag := options.get("tag"):
        found["tag"] = _ACTION.sub(lambda action: _field(action.group(1), logged), tag)
    return found


def _chosen(
    options: Mapping[str, str], option: str, given: Mapping[str, str]
) -> dict[str, str]:
    names: Iterable[str] = filter(None, options.get(option, "").split(","))
    found = {name: given[name] for name in names if name in given}
    if pattern := options.get(f"{option}-regex"):
        found |= {name: value for name, value in given.items() if re.search(pattern, name)}
    return found


def _field(name: str, logged: Logged) -> str:
    image = logged.image_id.removeprefix("sha256:")
    return {
        "ID": logged.id[:_SHORT],
        "FullID": logged.id,
        "Name": logged.name,
        "ImageID": image[:_SHORT],
        "ImageFullID": logged.image_id,
        "ImageName": logged.image,
        "DaemonName": logged.daemon,
    }.get(name, "")
