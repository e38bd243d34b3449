"""The three children of a host and their channels: what each is spawned with.

Knows nothing of when: `shoal.host.child` decides restarts, `shoal.host.requests` the roles.
"""

import importlib
import os
import socket
from pathlib import Path

import msgspec

from shoal.common.clock import Clock
from shoal.common.config import HostConfig
from shoal.common.host_control import Pids
from shoal.host import memory
from shoal.host.channel import Channel, KeptDescriptors
from shoal.host.child import Child
from shoal.host.roles import Etcd
from shoal.host.spawn import execute, fork_program
from shoal.host.warm import SHARED


class Programs(msgspec.Struct, frozen=True):
    """Module names of the two programs; each has `main(config, control_fd) -> int | None`.

    Attributes:
        shared: modules that are imported before the fork.
    """

    agent: str = "agent.__main__"
    manager: str = "manager.__main__"
    shared: tuple[str, ...] = SHARED


class Processes:
    """Agent, manager and etcd as children; the agent's and the manager's control channels.

    `locks` stay open in every child (see `shoal.host.lock`); `private` are descriptors that no
    child may have.
    """

    def __init__(
        self,
        config: HostConfig,
        programs: Programs,
        clock: Clock,
        *,
        locks: tuple[int, ...],
        private: tuple[int, ...],
    ) -> None:
        self.kept = KeptDescriptors()
        self.channels: dict[str, Channel] = {}
        self.etcd_command: Etcd | None = None
        self.etcd_once: tuple[str, ...] = ()
        self._config = config
        self._locks = locks
        self._private = private
        self.agent = Child("agent", lambda: self._fork("agent", programs.agent), clock)
        self.manager = Child("manager", lambda: self._fork("manager", programs.manager), clock)
        self.etcd = Child("etcd", self._execute_etcd, clock)

    @property
    def children(self) -> tuple[Child, ...]:
        return (self.agent, self.manager, self.etcd)

    @property
    def etcd_directory(self) -> Path:
        """Etcd's working directory: its data and its client socket."""
        return Path(self._config.state) / "etcd"

    def pids(self) -> Pids:
        return Pids(os.getpid(), self.agent.pid, self.manager.pid, self.etcd.pid)

    def _fork(self, name: str, module: str) -> int:
        if (old := self.channels.pop(name, None)) is not None:
            old.close()
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)

        def run() -> int | None:
            ours.close()
            self._close_private()
            program = importlib.import_module(module)
            memory.give_back()
            result: int | None = program.main(self._config, theirs.detach())
            return result

        pid = fork_program(f"shoal-{name}", run)
        theirs.close()
        self.channels[name] = Channel(name, ours)
        return pid

    def _close_private(self) -> None:
        """What the fork has inherited and only the host may hold."""
        for channel in self.channels.values():
            channel.close()
        pidfds = [child.pidfd for child in self.children if child.pid is not None]
        for descriptor in (*pidfds, *self._private, *self.kept.descriptors()):
            os.close(descriptor)

    def _execute_etcd(self) -> int:
        if self.etcd_command is None:
            raise FileNotFoundError("no command line was given for etcd")
        directory = self.etcd_directory
        directory.mkdir(mode=0o700, exist_ok=True)
        directory.chmod(0o700)
        # A killed etcd leaves its socket's file, on which the next could not listen. Nobody
        # listens there now: the lock on the state directory lives until the last child ends.
        for path in directory.iterdir():
            if path.is_socket():
                path.unlink()
        argv = (*self.etcd_command.argv, *self.etcd_once)
        self.etcd_once = ()
        return execute("etcd", argv, self.etcd_command.env, directory, self._locks)
