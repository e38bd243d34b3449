"""What the host does when a child asks: roles are changed on disk first, then in fact.

The agent may ask for everything (`swarm leave --force` works where the manager cannot serve),
the manager for etcd and for its own standing.
"""

import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import assert_never

import msgspec

from shoal.common.host_control import (
    Call,
    DropDescriptor,
    KeepDescriptor,
    Reply,
    StartEtcd,
    StartManager,
    Status,
    StopEtcd,
    StopManager,
    TakeDescriptors,
)
from shoal.host.channel import Channel
from shoal.host.processes import Processes
from shoal.host.roles import Etcd, Roles, load_roles, save_roles

Answer = Callable[[str], None]


class Requests:
    """Answers the children; owns the host's roles."""

    def __init__(self, processes: Processes, roles_file: Path) -> None:
        self._processes = processes
        self._file = roles_file
        self._roles = load_roles(roles_file)
        self._closing = False

    def start_all(self) -> None:
        """Start what the roles on disk say, etcd first, then the agent, which always runs."""
        processes = self._processes
        if self._roles.etcd is not None:
            processes.etcd_command = self._roles.etcd
            processes.etcd.start_supervised()
        if self._roles.manager:
            processes.manager.start_supervised()
        processes.agent.start_supervised()

    def stop_all(self, then: Callable[[], None]) -> None:
        """End manager, agent and etcd, one after another; the roles on disk stay."""
        self._closing = True
        manager, agent, etcd = (
            self._processes.manager,
            self._processes.agent,
            self._processes.etcd,
        )
        manager.stop(lambda: agent.stop(lambda: etcd.stop(then)))

    def answer(self, channel: Channel, call: Call, descriptors: list[int]) -> None:
        """Do what is asked and reply, at once or when what must end has ended."""

        def reply(error: str) -> None:
            channel.send(self._reply(call.number, error), [])

        if refusal := self._refusal(channel, call, descriptors):
            for descriptor in descriptors:
                os.close(descriptor)
            reply(refusal)
            return
        request = call.request
        match request:
            case StartManager() | StopManager() | StartEtcd() | StopEtcd():
                try:
                    self._change(request, reply)
                except OSError as error:
                    reply(f"the host cannot keep its roles: {error}")
            case Status():
                reply("")
            case KeepDescriptor(name):
                reply(self._processes.kept.keep(name, descriptors[0]))
            case DropDescriptor(name):
                self._processes.kept.drop(name)
                reply("")
            case TakeDescriptors(after):
                chosen = self._processes.kept.after(after)
                names = tuple(name for name, _ in chosen)
                channel.send(
                    msgspec.structs.replace(self._reply(call.number, ""), names=names),
                    [descriptor for _, descriptor in chosen],
                )
            case _:
                assert_never(request)

    def _refusal(self, channel: Channel, call: Call, descriptors: list[int]) -> str:
        if self._closing:
            return "the host process is shutting down"
        keeps = isinstance(call.request, KeepDescriptor)
        if len(descriptors) != int(keeps):
            return f"{type(call.request).__name__} came with {len(descriptors)} descriptors"
        if isinstance(call.request, StartManager | StopManager) and channel.child != "agent":
            return f"the {channel.child} may not start or stop the manager: the agent may"
        return ""

    def _reply(self, number: int, error: str) -> Reply:
        argv = self._roles.etcd.argv if self._roles.etcd else ()
        return Reply(number=number, error=error, pids=self._processes.pids(), etcd_argv=argv)

    def _change(
        self, request: StartManager | StopManager | StartEtcd | StopEtcd, reply: Answer
    ) -> None:
        processes = self._processes
        match request:
            case StartManager():
                self._keep(msgspec.structs.replace(self._roles, manager=True))
                processes.manager.start(reply)
            case StopManager():
                self._keep(msgspec.structs.replace(self._roles, manager=False))
                processes.manager.stop(lambda: reply(""))
            case StartEtcd(argv, env, once):
                self._start_etcd(Etcd(argv, env), once, reply)
            case StopEtcd(purge_state):
                self._keep(msgspec.structs.replace(self._roles, etcd=None))
                processes.etcd.stop(lambda: reply(self._purge() if purge_state else ""))
            case _:
                assert_never(request)

    def _start_etcd(self, etcd: Etcd, once: tuple[str, ...], reply: Answer) -> None:
        processes = self._processes
        changed = etcd != processes.etcd_command or bool(once)
        before = self._roles
        self._keep(msgspec.structs.replace(self._roles, etcd=etcd))

        def started(error: str) -> None:
            if error:  # a command that cannot be executed is not worth remembering
                self._keep(before)
            reply(error)

        def begin() -> None:
            processes.etcd_command = etcd
            processes.etcd_once = once
            processes.etcd.start(started)

        if changed:
            processes.etcd.stop(begin)
        else:
            processes.etcd.start(started)

    def _keep(self, roles: Roles) -> None:
        if roles != self._roles:
            save_roles(self._file, roles)
            self._roles = roles

    def _purge(self) -> str:
        try:
            shutil.rmtree(self._processes.etcd_directory)
        except FileNotFoundError:
            return ""
        except OSError as error:
            return f"etcd is stopped, but its directory cannot be deleted: {error}"
        return ""
