"""What the verbs do: up, down, start, stop, kill, link. Each holds the sandbox's lock.

`kill` without a word is a power cut: every process of the host ends at once, its namespaces and
mounts go, its run directory is emptied as a tmpfs would be, its state stays; `start` then boots
it as after a reboot. `down` is a power cut of all hosts and the removal of everything else.
Called by `command`.
"""

import shutil
import signal
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import msgspec

from shoal.cli.sandbox import boot, cgroups, cluster, mounts, network, processes
from shoal.cli.sandbox.plan import HostPlan, SandboxPlan, check_name, check_size
from shoal.cli.sandbox.registry import Registry, machine_lock, sandbox_lock
from shoal.model.errors import AlreadyExists, FailedPrecondition, InvalidArgument, Unavailable

BOOT_SECONDS = 60
STOP_SECONDS = 40

Say = Callable[[str], None]


class Lifecycle:
    """The verbs over the sandboxes of one registry; progress goes to `say`."""

    def __init__(self, registry: Registry, say: Say) -> None:
        self._registry = registry
        self._say = say

    def up(
        self, name: str, *, managers: int, workers: int, bare: bool, uplink: bool
    ) -> SandboxPlan:
        """Make the sandbox, or say that it is there already; what fails half-way is removed."""
        check_name(name)
        check_size(managers, workers)
        with sandbox_lock(name):
            plan = self._registry.find(name)
            if plan is not None:
                self._check_same(plan, managers=managers, workers=workers, uplink=uplink)
                return plan
            plan = self._claim(name, managers=managers, workers=workers, uplink=uplink)
            try:
                self._fill(plan, bare=bare)
            except BaseException:
                self._say(f"that failed; removing what there is of sandbox {name}")
                self._remove(plan)
                raise
        return plan

    def down(self, name: str) -> bool:
        """Remove the sandbox without a trace; False if there is none."""
        check_name(name)
        with sandbox_lock(name):
            plan = self._registry.find(name)
            if plan is not None:
                self._remove(plan)
        return plan is not None

    def start(self, name: str, host_name: str) -> None:
        """Boot a host that is off, or start the daemons of one that was stopped."""
        with sandbox_lock(name):
            plan = self._registry.get(name)
            host = plan.host(host_name)
            if processes.supervisor(host) is not None:
                self._say(f"{host.name} runs already")
                return
            self._finish_orphans(host)
            if not network.netns_exists(plan.link_netns):
                with machine_lock():
                    self._make_link(plan)
            if not network.netns_exists(host.netns):
                network.plug(plan, host)
            boot.start_daemons(plan, host)
        boot.wait_until_up(host, BOOT_SECONDS)

    def stop(self, name: str, host_name: str) -> None:
        """End the daemons in order; containers stay."""
        with sandbox_lock(name):
            host = self._registry.get(name).host(host_name)
            pid = processes.supervisor(host)
            if pid is None:
                self._say(f"the daemons of {host.name} do not run")
                return
            every = {pid, *processes.daemons(host).values()}
            processes.signal_to(pid, signal.SIGTERM)
            if not processes.wait_gone(every, STOP_SECONDS):
                raise Unavailable(
                    f"the daemons of {host.name} did not end within {STOP_SECONDS} s; "
                    f"`shoal sandbox kill {host.name} daemons` ends them at once"
                )

    def kill(self, name: str, host_name: str, what: str) -> None:
        """SIGKILL one daemon, all daemons, or (what is empty) cut the host's power."""
        with sandbox_lock(name):
            plan = self._registry.get(name)
            host = plan.host(host_name)
            if not what:
                self._cut_power(plan, host)
                return
            running = processes.daemons(host)
            if (pid := processes.supervisor(host)) is not None:
                running = {"host": pid} | running
            victims = running if what == "daemons" else _only(running, what)
            if not victims:
                noun = "no daemons" if what == "daemons" else f"no {what}"
                raise FailedPrecondition(f"{noun} of {host.name} runs")
            for pid in victims.values():  # the host process first: it would restart the others
                processes.signal_to(pid, signal.SIGKILL)
            every = running.values() if what in ("host", "daemons") else victims.values()
            if not processes.wait_gone(every, 10):
                raise Unavailable(f"daemons of {host.name} outlived SIGKILL by 10 s")

    def link(self, name: str, host_name: str, action: str, peer_name: str | None) -> None:
        """Pull the cable, mend it (with all its cuts), or cut one peer off."""
        if (action == "drop") != (peer_name is not None):
            raise InvalidArgument("`link HOST drop PEER` names a peer; `up` and `down` do not")
        with sandbox_lock(name):
            plan = self._registry.get(name)
            host = plan.host(host_name)
            if not network.netns_exists(host.netns):
                raise FailedPrecondition(f"{host.name} is off and has no link; start it first")
            if peer_name is not None:
                peer = plan.host(peer_name)
                if peer == host:
                    raise InvalidArgument(f"{host.name} cannot be cut off from itself")
                network.drop_between(plan, host, peer)
                return
            network.set_cable(plan, host, action)
            if action == "up":
                network.restore_between(plan, host)

    def show(self, host: HostPlan) -> dict[str, Any]:
        """One host as `--json` prints it."""
        return {
            "name": host.name,
            "role": host.role,
            "address": host.address,
            "netns": host.netns,
            "docker_host": host.docker_host,
            "pids": processes.daemons(host),
        }

    def state(self, plan: SandboxPlan, host: HostPlan) -> str:
        """What a person wants to know: the daemons, then the link where it is not whole."""
        if not network.netns_exists(host.netns):
            return "off"
        runs = processes.supervisor(host) is not None
        words = ["running" if runs else "stopped"]
        if not network.cable_is_up(plan, host):
            words.append("link down")
        if cut := network.cuts_of(plan, host):
            words.append(f"cut off from {', '.join(cut)}")
        return ", ".join(words)

    def _check_same(
        self, plan: SandboxPlan, *, managers: int, workers: int, uplink: bool
    ) -> None:
        there = (plan.managers, plan.workers, plan.uplink)
        shape = f"{plan.managers} managers, {plan.workers} workers"
        shape += ", with an uplink" if plan.uplink else ""
        if there != (managers, workers, uplink):
            raise AlreadyExists(
                f"sandbox {plan.name} is up in another shape ({shape}); "
                f"`shoal sandbox down --name {plan.name}` removes it"
            )
        self._say(f"sandbox {plan.name} is already up ({shape})")
        for host in plan.hosts:
            if processes.supervisor(host) is None:
                self._say(
                    f"{host.name} is not running; "
                    f"`shoal sandbox start {host.name} --name {plan.name}` starts it"
                )

    def _claim(self, name: str, *, managers: int, workers: int, uplink: bool) -> SandboxPlan:
        """Choose a range and make the link, so that nobody else can choose it."""
        with machine_lock():
            plan = SandboxPlan(
                name=name,
                subnet=self._registry.free_subnet(),
                managers=managers,
                workers=workers,
                uplink=uplink,
                base=self._registry.base,
            )
            if network.netns_exists(plan.link_netns):
                raise AlreadyExists(
                    f"a sandbox {name} exists in another directory than {plan.base}; "
                    "choose another name"
                )
            self._registry.save(plan)
            try:
                return self._make_link(plan)
            except BaseException:
                self._remove_shared(plan)
                raise

    def _make_link(self, plan: SandboxPlan) -> SandboxPlan:
        network.make_link(plan)
        if plan.uplink:
            before = network.open_uplink(plan)
            others = self._other_uplinks(plan)
            was = others[0].forwarding_was if others else before
            plan = msgspec.structs.replace(plan, forwarding_was=was)
            self._registry.save(plan)
        return plan

    def _fill(self, plan: SandboxPlan, *, bare: bool) -> None:
        self._say(f"sandbox {plan.name}: {len(plan.hosts)} hosts on {plan.network}")
        for host in plan.hosts:
            network.plug(plan, host)
            boot.start_daemons(plan, host)
        for host in plan.hosts:
            boot.wait_until_up(host, BOOT_SECONDS)
            self._say(f"{host.name}: up at {host.address}")
        if not bare:
            cluster.form(plan.hosts, self._say)

    def _finish_orphans(self, host: HostPlan) -> None:
        """Daemons that outlived their host process would meet their successors."""
        left = processes.daemons(host).values()
        for pid in left:
            processes.signal_to(pid, signal.SIGKILL)
        processes.wait_gone(left, 10)

    def _cut_power(self, plan: SandboxPlan, host: HostPlan) -> None:
        tunnels = network.tunnel_sockets(host)
        processes.kill_until_none(lambda: processes.everything_of(host), host.name)
        for socket in tunnels:  # of a directory that a reboot would empty
            socket.unlink(missing_ok=True)
        for path in processes.container_namespaces(host):
            network.remove_netns(path.name)
        mounts.detach_below(host.directory)
        network.unplug(plan, host)
        if left := [
            *cgroups.remove_soon(host.cgroup),
            *cgroups.remove_soon(host.container_cgroup),
        ]:
            raise Unavailable(f"control groups are still in use: {', '.join(map(str, left))}")
        shutil.rmtree(host.run, ignore_errors=True)
        (host.directory / "host.pid").unlink(missing_ok=True)

    def _remove(self, plan: SandboxPlan) -> None:
        with ThreadPoolExecutor(max_workers=4) as pool:
            for cut in [pool.submit(self._cut_power, plan, host) for host in plan.hosts]:
                cut.result()
        with machine_lock():
            self._remove_shared(plan)

    def _remove_shared(self, plan: SandboxPlan) -> None:
        network.close_uplink(plan, others=bool(self._other_uplinks(plan)))
        network.remove_link(plan)
        mounts.detach_below(plan.directory)
        cgroups.remove(f"shoal-sandbox/{plan.name}")
        shutil.rmtree(plan.directory)
        for shared in ("shoal-sandbox", "shoal"):
            cgroups.remove_if_empty(shared)
        if plan.base.is_dir() and not any(plan.base.iterdir()):
            plan.base.rmdir()

    def _other_uplinks(self, plan: SandboxPlan) -> list[SandboxPlan]:
        return [
            other
            for other in self._registry.list()
            if other.uplink and other.name != plan.name and other.forwarding_was
        ]


def _only(running: dict[str, int], what: str) -> dict[str, int]:
    return {name: pid for name, pid in running.items() if name == what}
