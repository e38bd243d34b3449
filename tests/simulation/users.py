"""What users ask for: services and nodes of every kind, through any manager, all the time."""

import asyncio
import random
from collections.abc import Awaitable, Callable, Iterable
from typing import TypeVar

import msgspec

from agent.runtime.fake import Plan
from manager.control.payloads import PayloadSpec
from manager.control.services import ServiceUpdate
from manager.view import View
from shoal.model.assignment import AssignedTask
from shoal.model.defaults import UPDATE_DEADLINE_LABEL, is_job
from shoal.model.errors import ClusterError
from shoal.model.objects import Network, Node, Service
from shoal.model.spec.network import NetworkSpec
from shoal.model.spec.node import NodeSpec
from shoal.model.spec.service import (
    EndpointSpec,
    Global,
    GlobalJob,
    PortConfig,
    Replicated,
    ReplicatedJob,
    ServiceMode,
    ServiceSpec,
    UpdateConfig,
)
from shoal.model.spec.task import (
    ConfigReference,
    ContainerSpec,
    NetworkAttachmentConfig,
    Placement,
    PlacementPreference,
    ReferenceFile,
    ResourceRequirements,
    Resources,
    RestartPolicy,
    SecretReference,
    SpreadOver,
    TaskSpec,
)
from shoal.model.states import Availability, NodeRole, NodeState
from tests.simulation.checks import Acknowledged
from tests.simulation.managers import Manager
from tests.simulation.truth import Truth

SECOND = 1_000_000_000
T = TypeVar("T")
GOOD = ("good", "slow")
BAD = ("crash", "reject", "badstart", "once", "flaky")
CALL_SECONDS = 30.0
SERVICES = 6


def plan(task: AssignedTask) -> Plan:
    """How a task's container behaves: its image says so, chance adds its own times."""
    chance = random.Random(task.id)
    usual = Plan(prepare=chance.uniform(0.01, 0.3), start=0.02, stop=chance.uniform(0.01, 0.5))
    again = msgspec.structs.replace
    match task.container.image:
        case "slow":
            return Plan(prepare=chance.uniform(0.5, 3), start=chance.uniform(0.1, 1), stop=2.0)
        case "crash":
            return again(usual, runs=chance.uniform(0.1, 3), exit_code=1)
        case "reject":
            return again(usual, prepare_error="No such image: reject")
        case "badstart":
            return again(usual, start_error="starting container failed")
        case "job":
            return again(usual, runs=chance.uniform(0.2, 2))
        case "once":
            return again(usual, runs=chance.uniform(0.5, 3))
        case "flaky" if chance.random() < 0.4:
            return again(usual, runs=chance.uniform(0.5, 8), exit_code=1)
        case _:
            return usual


class User:
    """Asks for one thing after another; knows only what managers tell."""

    def __init__(
        self,
        chance: random.Random,
        truth: Truth,
        expected: Acknowledged,
        managers: Callable[[], list[Manager]],
    ) -> None:
        self._chance = chance
        self._truth = truth
        self._expected = expected
        self._managers = managers

    async def run(self) -> None:
        """Until cancelled."""
        while True:
            await self.act()
            await asyncio.sleep(
                self._chance.choice((0.1, 0.5, 2.0, 5.0)) * self._chance.random()
            )

    async def act(self) -> None:
        """One request to some manager."""
        managers = self._managers()
        if not managers:
            return
        manager = self._chance.choice(managers)
        services = list(manager.memory.services())
        acts: list[Callable[[Manager], Awaitable[None]]] = [self._node, self._thing]
        if services:
            acts += [self._update] * 4 + [self._scale] * 2 + [self._rollback, self._remove]
        if len(services) < SERVICES:
            acts += [self._create] * (6 - len(services))
        await self._chance.choice(acts)(manager)

    async def _asked(self, what: str, call: Awaitable[object]) -> bool:
        """Whether it was acknowledged."""
        self._truth.say(f"user: {what}")
        try:
            async with asyncio.timeout(CALL_SECONDS):
                await call
        except (ClusterError, TimeoutError) as error:
            self._truth.say(f"user: {what}: refused: {str(error) or 'no answer'}")
            return False
        self._truth.say(f"user: {what}: done")
        return True

    # -- services

    async def _create(self, manager: Manager) -> None:
        spec = self.service_spec(manager.memory)
        self._expected.wants_service(spec)
        self._truth.say(f"user: create {spec.name} at {manager.node}")
        try:
            async with asyncio.timeout(CALL_SECONDS):
                identity = await manager.operations.services.create(spec)
        except (ClusterError, TimeoutError) as error:
            self._truth.say(f"user: create {spec.name}: refused: {str(error) or 'no answer'}")
            return
        self._truth.say(f"user: create {spec.name}: done, {_short(spec)}")
        self._expected.has_service(identity, spec)

    def _pick(self, manager: Manager) -> Service:
        return self._chance.choice(list(manager.memory.services()))

    async def _update(self, manager: Manager) -> None:
        service = self._pick(manager)
        await self.change(manager, service, self.changed(service.spec, manager.memory))

    async def change(self, manager: Manager, service: Service, spec: ServiceSpec) -> None:
        """Update a service to a spec."""
        self._expected.wants_spec(service.id, spec)
        since = self._truth.view.revision
        request = ServiceUpdate(spec=spec, version=service.version)
        what = f"update {spec.name} at {manager.node} to {_short(spec)}"
        if await self._asked(what, manager.operations.services.update(service.id, request)):
            self._expected.has_spec(service.id, since, spec)

    async def _scale(self, manager: Manager) -> None:
        service = self._pick(manager)
        if service.spec.mode.replicated is None:
            return
        mode = ServiceMode(replicated=Replicated(replicas=self._chance.randint(0, 6)))
        await self.change(manager, service, msgspec.structs.replace(service.spec, mode=mode))

    async def _rollback(self, manager: Manager) -> None:
        service = self._pick(manager)
        self._expected.wants_rollback(service.id)
        request = ServiceUpdate(spec=service.spec, version=service.version, rollback="previous")
        what = f"roll back {service.spec.name} at {manager.node}"
        await self._asked(what, manager.operations.services.update(service.id, request))

    async def _remove(self, manager: Manager) -> None:
        service = self._pick(manager)
        await self.remove(manager, service)

    async def remove(self, manager: Manager, service: Service) -> None:
        """Remove a service."""
        self._expected.wants_removal(service.id)
        what = f"remove {service.spec.name} at {manager.node}"
        if await self._asked(what, manager.operations.services.remove(service.id)):
            self._expected.is_removed(service.id)

    # -- networks, secrets, configs

    async def _thing(self, manager: Manager) -> None:
        """Make one of the few that there may be, or take one away."""
        chance, operations = self._chance, manager.operations
        name = f"{chance.choice(('net', 'secret', 'config'))}{chance.randint(0, 2)}"
        data = PayloadSpec(name=name, data=name.encode())
        take = chance.random() < 0.2
        match name[:-1]:
            case "net" if take:
                call: Awaitable[object] = operations.networks.remove(name)
            case "net":
                call = operations.networks.create(NetworkSpec(name=name, driver="overlay"))
            case "secret" if take:
                call = operations.payloads.remove_secret(name)
            case "secret":
                call = operations.payloads.create_secret(data)
            case _ if take:
                call = operations.payloads.remove_config(name)
            case _:
                call = operations.payloads.create_config(data)
        await self._asked(f"{'remove' if take else 'create'} {name} at {manager.node}", call)

    # -- nodes

    async def _node(self, manager: Manager) -> None:
        nodes = list(manager.memory.nodes())
        if not nodes:
            return
        node = self._chance.choice(nodes)
        removable = node.spec.role != NodeRole.MANAGER and node.state is NodeState.DOWN
        leaves = node.spec.role != NodeRole.MANAGER and self._chance.random() < 0.05
        if (leaves or (removable and self._chance.random() < 0.3)) and len(nodes) > 2:
            self._expected.wants_node_removal(node.id)
            call = manager.operations.nodes.remove(node.id, force=leaves)
            await self._asked(f"remove node {node.id}", call)
            return
        if node.spec.role == NodeRole.MANAGER and self._chance.random() < 0.05:
            demoted = msgspec.structs.replace(node.spec, role=NodeRole.WORKER.value)
            await self.change_node(manager, node, demoted)
            return
        availability = self._chance.choice(("active", "active", "pause", "drain"))
        labels = dict(node.spec.labels)
        if self._chance.random() < 0.4:
            labels["zone"] = self._chance.choice("ab")
        spec = msgspec.structs.replace(node.spec, availability=availability, labels=labels)
        await self.change_node(manager, node, spec)

    async def change_node(self, manager: Manager, node: Node, spec: NodeSpec) -> None:
        """Update a node to a spec."""
        self._expected.wants_node(node.id, spec)
        call = manager.operations.nodes.update(node.id, spec, node.version)
        what = f"node {node.id} {spec.role} {spec.availability} {dict(spec.labels)}"
        what += f" at {manager.node}"
        await self._asked(what, call)

    async def settle(self, manager: Manager, *, patient: bool) -> None:
        """Nothing that never comes to rest: what keeps ending is updated, or removed."""
        for service in list(manager.memory.services()):
            container = service.spec.task_template.container_spec
            if container is None or container.image in GOOD:
                continue
            if is_job(service.spec) and container.image == "job":
                continue
            if not patient or self._chance.random() < 0.5:
                await self.remove(manager, service)
                continue
            template = msgspec.structs.replace(
                service.spec.task_template,
                container_spec=msgspec.structs.replace(container, image="good"),
            )
            spec = msgspec.structs.replace(service.spec, task_template=template)
            await self.change(manager, service, spec)
        for node in list(manager.memory.nodes()):
            if node.spec.availability != Availability.ACTIVE and self._chance.random() < 0.7:
                active = msgspec.structs.replace(node.spec, availability="active")
                await self.change_node(manager, node, active)

    # -- specs

    def service_spec(self, memory: View) -> ServiceSpec:
        """A new service of some kind."""
        chance = self._chance
        if chance.random() < 0.15:
            return self._job(memory)
        mode = ServiceMode(replicated=Replicated(replicas=chance.randint(1, 5)))
        if chance.random() < 0.3:
            mode = ServiceMode(global_=Global())
        return ServiceSpec(
            name=f"s{chance.randint(0, SERVICES)}",
            labels={UPDATE_DEADLINE_LABEL: "20s"},
            task_template=self._template(memory),
            mode=mode,
            update_config=self._update_config(("pause", "continue", "rollback")),
            rollback_config=self._update_config(("pause", "continue")),
            endpoint_spec=EndpointSpec(
                mode=chance.choice(("vip", "vip", "dnsrr")), ports=self._ports()
            ),
        )

    def _job(self, memory: View) -> ServiceSpec:
        chance = self._chance
        mode = ServiceMode(global_job=GlobalJob())
        if chance.random() < 0.8:
            size = ReplicatedJob(
                max_concurrent=chance.randint(1, 3), total_completions=chance.randint(1, 5)
            )
            mode = ServiceMode(replicated_job=size)
        return ServiceSpec(
            name=f"s{chance.randint(0, SERVICES)}",
            task_template=self._job_template(memory),
            mode=mode,
        )

    def _job_template(self, memory: View) -> TaskSpec:
        template = self._template(memory)
        container = template.container_spec or ContainerSpec()
        image = "job" if self._chance.random() < 0.8 else "flaky"
        policy = self._restart()
        condition = "on-failure" if policy.condition == "any" else policy.condition
        return msgspec.structs.replace(
            template,
            container_spec=msgspec.structs.replace(container, image=image),
            restart_policy=msgspec.structs.replace(policy, condition=condition),
        )

    def changed(self, spec: ServiceSpec, memory: View) -> ServiceSpec:
        """Another form of the same service."""
        chance = self._chance
        if is_job(spec):
            return msgspec.structs.replace(spec, task_template=self._job_template(memory))
        if chance.random() < 0.7:
            spec = msgspec.structs.replace(spec, task_template=self._template(memory))
        if chance.random() < 0.3:
            config = self._update_config(("pause", "continue", "rollback"))
            spec = msgspec.structs.replace(spec, update_config=config)
        if chance.random() < 0.15:
            spec = msgspec.structs.replace(
                spec, endpoint_spec=EndpointSpec(ports=self._ports())
            )
        if chance.random() < 0.1:
            template = msgspec.structs.replace(
                spec.task_template, force_update=spec.task_template.force_update + 1
            )
            spec = msgspec.structs.replace(spec, task_template=template)
        return spec

    def _some(self, things: Iterable[T], share: float) -> list[T]:
        """One of them, or none."""
        found = list(things)
        return [self._chance.choice(found)] if found and self._chance.random() < share else []

    def _template(self, memory: View) -> TaskSpec:
        chance = self._chance
        image = chance.choice(GOOD if chance.random() < 0.7 else BAD)
        resources = None
        if chance.random() < 0.4:
            cpus = chance.choice((250_000_000, 500_000_000, 1_000_000_000))
            resources = ResourceRequirements(reservations=Resources(nano_cpus=cpus))
        return TaskSpec(
            container_spec=ContainerSpec(
                image=image,
                env=(f"V={chance.randint(1, 99)}",),
                secrets=tuple(
                    SecretReference(
                        secret_id=one.id, secret_name=one.name, file=_file(one.name)
                    )
                    for one in self._some(memory.secrets(), 0.4)
                ),
                configs=tuple(
                    ConfigReference(
                        config_id=one.id, config_name=one.name, file=_file(one.name)
                    )
                    for one in self._some(memory.configs(), 0.3)
                ),
            ),
            networks=tuple(
                NetworkAttachmentConfig(target=one.id)
                for one in self._some(filter(_attachable, memory.networks()), 0.6)
            ),
            resources=resources,
            restart_policy=self._restart(),
            placement=self._placement(),
        )

    def _restart(self) -> RestartPolicy:
        chance = self._chance
        return RestartPolicy(
            condition=chance.choice(("any", "any", "on-failure", "none")),
            delay=chance.choice((SECOND // 2, SECOND, 3 * SECOND)),
            max_attempts=chance.choice((0, 0, 0, 2)),
        )

    def _placement(self) -> Placement | None:
        chance = self._chance
        if chance.random() < 0.6:
            return None
        spread = PlacementPreference(spread=SpreadOver(spread_descriptor="node.labels.zone"))
        return Placement(
            constraints=("node.labels.zone==a",) if chance.random() < 0.5 else (),
            preferences=(spread,) if chance.random() < 0.5 else (),
            max_replicas=chance.choice((0, 0, 1, 2)),
        )

    def _update_config(self, actions: tuple[str, ...]) -> UpdateConfig | None:
        chance = self._chance
        if chance.random() < 0.2:
            return None
        return UpdateConfig(
            parallelism=chance.choice((0, 1, 1, 2)),
            delay=chance.choice((0, 0, SECOND)),
            failure_action=chance.choice(actions),
            monitor=chance.choice((SECOND // 2, 2 * SECOND)),
            max_failure_ratio=chance.choice((0.0, 0.0, 0.5)),
            order=chance.choice(("stop-first", "stop-first", "start-first")),
        )

    def _ports(self) -> tuple[PortConfig, ...]:
        chance = self._chance
        match chance.randint(0, 5):
            case 0:
                return (PortConfig(target_port=80, published_port=chance.randint(8000, 8002)),)
            case 1:
                return (PortConfig(target_port=80),)
            case 2:
                port = chance.randint(9000, 9001)
                return (PortConfig(target_port=80, published_port=port, publish_mode="host"),)
            case _:
                return ()


def _attachable(network: Network) -> bool:
    return not network.pending_delete and not network.spec.ingress


def _file(name: str) -> ReferenceFile:
    return ReferenceFile(name=name, uid="0", gid="0", mode=0o444)


def _short(spec: ServiceSpec) -> str:
    """A spec in a few words."""
    template = spec.task_template
    container = template.container_spec
    said = [container.image if container is not None else "?"]
    mode = spec.mode.replicated
    said.append(f"x{mode.replicas}" if mode is not None else "global")
    if template.placement is not None:
        said.append(
            f"{' '.join(template.placement.constraints)} max {template.placement.max_replicas}"
        )
    if template.resources is not None and template.resources.reservations is not None:
        said.append(f"{template.resources.reservations.nano_cpus / 1e9:g} cpu")
    policy = template.restart_policy
    if policy is not None:
        said.append(
            f"restart {policy.condition} {(policy.delay or 0) / 1e9:g} s {policy.max_attempts}"
        )
    config = spec.update_config
    if config is not None:
        said.append(f"update {config.parallelism} {config.order} {config.failure_action}")
    ports = spec.endpoint_spec.ports if spec.endpoint_spec is not None else ()
    said += [f"port {port.published_port} {port.publish_mode}" for port in ports]
    return ", ".join(said)


def founding_spec(chance: random.Random, role: NodeRole) -> NodeSpec:
    """A node as it is at the beginning."""
    return NodeSpec(role=role.value, labels={"zone": chance.choice("ab")})


def host_size(chance: random.Random) -> Resources:
    """What a host has."""
    return Resources(nano_cpus=chance.choice((2, 4)) * 1_000_000_000, memory_bytes=8 << 30)
