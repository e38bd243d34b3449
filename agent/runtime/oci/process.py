"""The OCI `process` object of a container's command or of an exec, as Docker fills it. P."""

from collections.abc import Iterable, Sequence
from typing import Any

import msgspec

from agent.runtime.oci.capabilities import capabilities
from agent.runtime.oci.request import ContainerRequest, User
from shoal.model.container import HostConfig
from shoal.model.errors import InvalidArgument

PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
INIT = "/sbin/docker-init"


class ExecRequest(msgspec.Struct, frozen=True, kw_only=True):
    """A command for a running container, as `POST /containers/x/exec` asks for it.

    Attributes:
        env: added to the container's own.
        user: looked up already; None for the container's.
    """

    args: tuple[str, ...]
    env: tuple[str, ...] = ()
    working_dir: str = ""
    user: User | None = None
    terminal: bool = False
    privileged: bool = False
    terminal_size: tuple[int, int] = (0, 0)


def command(request: ContainerRequest) -> tuple[str, ...]:
    """Entrypoint and command in one, behind the init program where one is wanted."""
    args = (*_words(request.config.entrypoint), *_words(request.config.cmd))
    if not args or not args[0]:
        raise InvalidArgument("no command specified", field="Cmd")
    return (INIT, "--", *args) if request.host.init else args


def container_process(request: ContainerRequest) -> dict[str, Any]:
    """The container's first process."""
    held = capabilities(
        request.host.cap_add or (),
        request.host.cap_drop or (),
        privileged=request.host.privileged,
        known=request.known_capabilities,
    )
    process = _process(
        request, command(request), request.user, held, request.config.working_dir or "/"
    )
    process["env"] = environment(request)
    process["terminal"] = request.config.tty
    process["oomScoreAdj"] = request.host.oom_score_adj
    _sized(process, request.config.tty, request.terminal_size)
    return process


def exec_process(request: ContainerRequest, wanted: ExecRequest) -> dict[str, Any]:
    """A further process of the container that `request` describes."""
    if not wanted.args:
        raise InvalidArgument("No exec command specified", field="Cmd")
    user = wanted.user or request.user
    host = request.host
    held = capabilities(
        host.cap_add or (),
        host.cap_drop or (),
        privileged=host.privileged or wanted.privileged,
        known=request.known_capabilities,
    )
    directory = wanted.working_dir or request.config.working_dir or "/"
    process = _process(request, wanted.args, user, held, directory)
    base = environment(request, terminal=wanted.terminal)
    if wanted.user is not None:  # another user's home, unless the container says one
        base = [entry for entry in base if entry != f"HOME={request.user.home}"]
        base = merged(base, [f"HOME={user.home}"], keep=True)
    process["env"] = merged(base, wanted.env)
    process["terminal"] = wanted.terminal
    _sized(process, wanted.terminal, wanted.terminal_size)
    return process


def environment(request: ContainerRequest, *, terminal: bool | None = None) -> list[str]:
    """PATH, HOSTNAME, TERM and HOME, then the container's own entries, which win."""
    tty = request.config.tty if terminal is None else terminal
    defaults = [f"PATH={PATH}", f"HOSTNAME={hostname(request)}"]
    if tty:
        defaults.append("TERM=xterm")
    own = [entry for entry in request.config.env or () if "=" in entry]
    unset = {entry for entry in request.config.env or () if "=" not in entry}
    env = [entry for entry in merged(defaults, own) if entry.partition("=")[0] not in unset]
    return env if "HOME" in unset else merged(env, [f"HOME={request.user.home}"], keep=True)


def merged(base: Iterable[str], more: Iterable[str], *, keep: bool = False) -> list[str]:
    """Both lists with one entry a name; the later wins, or with `keep` the earlier."""
    found: dict[str, str] = {entry.partition("=")[0]: entry for entry in base}
    for entry in more:
        name = entry.partition("=")[0]
        if not (keep and name in found):
            found[name] = entry
    return list(found.values())


def hostname(request: ContainerRequest) -> str:
    """The name asked for, else the first 12 digits of the id."""
    return request.hostname or request.config.hostname or request.id[:12]


def no_new_privileges(host: HostConfig) -> bool:
    """Whether a security option says so."""
    return any(
        option in {"no-new-privileges", "no-new-privileges:true", "no-new-privileges=true"}
        for option in host.security_opt or ()
    )


def _process(
    request: ContainerRequest,
    args: Sequence[str],
    user: User,
    held: Sequence[str],
    directory: str,
) -> dict[str, Any]:
    """What a container's process and an exec have in common.

    Docker lets only root hold capabilities from the start; others get them by set-user-id files
    within the bounding set.
    """
    own = list(held) if user.uid == 0 else []
    identity: dict[str, Any] = {"uid": user.uid, "gid": user.gid}
    if groups := [user.gid, *(group for group in user.groups if group != user.gid)]:
        identity["additionalGids"] = groups
    process = {
        "user": identity,
        "args": list(args),
        "cwd": directory,
        "capabilities": {"bounding": list(held), "effective": own, "permitted": own},
        "noNewPrivileges": no_new_privileges(request.host),
    }
    if request.host.ulimits:
        process["rlimits"] = [
            {"type": f"RLIMIT_{limit.name.upper()}", "soft": _limit(limit.soft)}
            | {"hard": _limit(limit.hard)}
            for limit in request.host.ulimits
        ]
    return process


def _sized(process: dict[str, Any], terminal: bool, size: tuple[int, int]) -> None:
    height, width = size
    if terminal and height and width:
        process["consoleSize"] = {"height": height, "width": width}


def _limit(value: int) -> int:
    return value if value >= 0 else (1 << 64) - 1


def _words(value: Sequence[str] | str | None) -> tuple[str, ...]:
    return (value,) if isinstance(value, str) else tuple(value or ())
