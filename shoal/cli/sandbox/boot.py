"""Starting things inside a host: its daemons, and commands of the user.

A host differs from the machine in its network and UTS namespaces and its control group; it
shares the file system, so that its files can be looked at from anywhere. Called by `lifecycle`
and by the `exec` verb.
"""

import ctypes
import http.client
import os
import shutil
import socket
import sys
import time
from pathlib import Path
from typing import NoReturn

from typing_extensions import override

from shoal.cli.sandbox import cgroups, mounts, network, processes
from shoal.cli.sandbox.plan import HostPlan, SandboxPlan
from shoal.model.errors import FailedPrecondition, Internal, NotFound, Unavailable

PROGRAM_VARIABLE = "SHOAL_SANDBOX_PROGRAM"  # another program in the place of `shoal`
_CLONE_NEWUTS = 0x04000000
_CLONE_NEWNET = 0x40000000
_KEPT = ("PATH", "HOME", "LANG", "LC_ALL", "TZ", "SSL_CERT_FILE")
_PROXIES = ("http_proxy", "https_proxy", "HTTP_PROXY", "HTTPS_PROXY")
_libc = ctypes.CDLL(None, use_errno=True)


def program(name: str) -> str:
    """Path of a program, those beside this Python first (`.venv/bin`)."""
    beside = Path(sys.executable).parent
    found = shutil.which(name, path=f"{beside}:{os.environ.get('PATH', os.defpath)}")
    if found is None:
        raise NotFound(f"there is no `{name}` on this machine; ./scripts/install brings it")
    return found


def start_daemons(plan: SandboxPlan, host: HostPlan) -> int:
    """Start `shoal host` detached from us; returns its process id at once."""
    host.state.mkdir(parents=True, exist_ok=True)
    mounts.tmpfs(host.run)  # as /run is on a machine
    host.socket.unlink(missing_ok=True)
    command = [
        *(os.environ.get(PROGRAM_VARIABLE) or program("shoal"), "host"),
        *("--state", str(host.state), "--run", str(host.run)),
        *("--address", host.address, "--hostname", host.name, "--instance", host.instance),
    ]
    log = os.open(host.log, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o640)
    sys.stdout.flush()
    sys.stderr.flush()
    ready, child_side = os.pipe()
    middle = os.fork()
    if middle == 0:
        _detach(plan, host, command, log, child_side)
    os.close(log)
    os.close(child_side)
    os.waitpid(middle, 0)
    with os.fdopen(ready) as pipe:
        answer = pipe.read()
    if not answer.isdigit():
        raise Internal(f"the daemons of {host.name} could not be started: {answer}")
    (host.directory / "host.pid").write_text(f"{answer}\n")
    return int(answer)


def _detach(
    plan: SandboxPlan, host: HostPlan, command: list[str], log: int, answer: int
) -> NoReturn:
    """In the child: fork once more, so that the daemons are nobody's children, and become them.

    `answer` closes on exec; it carries the process id, or the reason why there is none.
    """
    code = 0
    try:
        os.setsid()
        if os.fork() == 0:
            os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
            os.dup2(log, 1)
            os.dup2(log, 2)
            enter(host)
            os.chdir("/")
            os.umask(0o022)
            os.write(answer, str(os.getpid()).encode())
            os.execve(command[0], command, _environment(plan))  # noqa: S606 - no shell wanted
    except BaseException as error:  # noqa: BLE001 - a forked child must never return
        os.write(answer, f" {error}".encode())
        code = 1
    os._exit(code)


def enter(host: HostPlan) -> None:
    """Move this process into the host: control group, network, a hostname of its own."""
    cgroups.join(host.cgroup, os.getpid())
    with (network.NETNS_DIRECTORY / host.netns).open() as namespace:
        _check(_libc.setns(namespace.fileno(), _CLONE_NEWNET), "enter the network namespace")
    _check(_libc.unshare(_CLONE_NEWUTS), "make a UTS namespace")
    socket.sethostname(host.name)


def _check(result: int, doing: str) -> None:
    if result != 0:
        raise Internal(f"could not {doing}: {os.strerror(ctypes.get_errno())}")


def _environment(plan: SandboxPlan) -> dict[str, str]:
    """What daemons inherit: little, so that a user's session does not leak into a "machine"."""
    kept = {
        name: value
        for name, value in os.environ.items()
        if name in _KEPT or name.startswith("SHOAL_")
    }
    if plan.uplink:
        kept |= {name: os.environ[name] for name in _PROXIES if name in os.environ}
        kept |= {"no_proxy": plan.network, "NO_PROXY": plan.network}
    return kept


def run_inside(host: HostPlan, command: list[str]) -> NoReturn:
    """Become the command, inside the host, with `docker` speaking to the host's own agent."""
    if not network.netns_exists(host.netns):
        raise FailedPrecondition(
            f"{host.name} is off; "
            f"`shoal sandbox start {host.name} --name {host.sandbox}` boots it"
        )
    beside = Path(sys.executable).parent
    environment = {name: v for name, v in os.environ.items() if not name.startswith("DOCKER_")}
    environment["PATH"] = f"{beside}:{os.environ.get('PATH', os.defpath)}"
    environment["DOCKER_HOST"] = host.docker_host
    if shutil.which(command[0], path=environment["PATH"]) is None:
        raise NotFound(f"there is no program {command[0]}")
    enter(host)
    os.execvpe(command[0], command, environment)  # noqa: S606 - no shell wanted


class _UnixConnection(http.client.HTTPConnection):
    """HTTP over a unix socket."""

    def __init__(self, path: Path, timeout: float) -> None:
        super().__init__("localhost", timeout=timeout)
        self._path = str(path)

    @override
    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.settimeout(self.timeout)
        self.sock.connect(self._path)


def answers(host: HostPlan) -> bool:
    """Whether the agent answers `GET /_ping`."""
    connection = _UnixConnection(host.socket, timeout=2)
    try:
        connection.request("GET", "/_ping")
        return connection.getresponse().status == 200
    except (OSError, http.client.HTTPException):
        return False
    finally:
        connection.close()


def wait_until_up(host: HostPlan, seconds: float) -> None:
    """Wait for the agent's answer; if the host process ends early, tell its last words."""
    deadline = time.monotonic() + seconds
    while not answers(host):
        if processes.supervisor(host) is None:
            raise Unavailable(f"the daemons of {host.name} ended at once:\n{_last_words(host)}")
        if time.monotonic() > deadline:
            raise Unavailable(
                f"{host.name} does not answer after {seconds:.0f} s:\n{_last_words(host)}"
            )
        time.sleep(0.02)


def _last_words(host: HostPlan) -> str:
    try:
        lines = host.log.read_text(errors="replace").splitlines()
    except FileNotFoundError:
        return "  (it wrote no log)"
    return "\n".join(f"  {line}" for line in lines[-20:]) or "  (its log is empty)"
