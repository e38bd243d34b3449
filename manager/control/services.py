"""Services: create, update, roll back, remove, list. What runs for them is the deciders'."""

import random
from datetime import datetime

import msgspec

from manager.control.canonical import canonical_service, endpoint_after
from manager.control.credentials import read_header, seal_registry_auth
from manager.control.inventing import invent_name
from manager.control.lookup import find_service
from manager.control.references import check_referents
from manager.control.service_networks import resolve_networks
from manager.control.writing import Writer
from manager.store.memory import Memory
from manager.store.sealing import Sealer
from manager.view import View
from shoal.common.clock import Clock
from shoal.model.changes import Create, Delete, Group, Update
from shoal.model.defaults import endpoint_of, is_host_port, is_job, mode_of
from shoal.model.ids import IdSource, ServiceID
from shoal.model.objects import Endpoint, JobStatus, Service, UpdateStatus
from shoal.model.spec.service import PortConfig, ServiceSpec
from shoal.model.states import UpdateState
from shoal.model.validate.refusal import (
    exists,
    invalid,
    out_of_sequence,
    precondition,
    unimplemented,
)
from shoal.model.validate.service import check_service


class ServiceUpdate(msgspec.Struct, frozen=True, kw_only=True):
    """A request to change a service.

    Attributes:
        version: `Version.Index` of what the caller read.
        registry_auth: the header, empty to keep what is there.
        registry_auth_from: `spec` or `previous-spec`, which come to the same: a service keeps
            one set of credentials, the last that was given.
        rollback: empty or `none`, or `previous`: then the spec before this one is taken.
    """

    spec: ServiceSpec
    version: int
    registry_auth: str = ""
    registry_auth_from: str = ""
    rollback: str = ""

    @property
    def rolls_back(self) -> bool:
        """Whether the spec before this one is asked for."""
        return self.rollback == "previous"


class Services:
    """The operations on services."""

    def __init__(
        self,
        writer: Writer,
        memory: Memory,
        sealer: Sealer,
        clock: Clock,
        ids: IdSource,
        chance: random.Random,
    ) -> None:
        self._writer = writer
        self._memory = memory
        self._sealer = sealer
        self._clock = clock
        self._ids = ids
        self._chance = chance

    async def create(self, spec: ServiceSpec, registry_auth: str = "") -> ServiceID:
        """A new service; it gets a name if it has none."""
        auth = read_header(registry_auth)
        invented = not spec.name
        identity = ServiceID(self._ids.new())
        sealed = seal_registry_auth(self._sealer, identity, auth)

        def decide() -> tuple[Group, ServiceID]:
            named = spec
            if invented:
                named = msgspec.structs.replace(spec, name=self._free_name())
            check_service(named)
            full = resolve_networks(self._memory, canonical_service(named))
            if self._memory.service_named(full.name) is not None:
                raise exists("service", full.name)
            check_referents(self._memory, full)
            check_ports_free(self._memory, full, identity)
            now = self._clock.now()
            service = Service(
                id=identity,
                created_at=now,
                updated_at=now,
                spec=full,
                endpoint=endpoint_after(full, Endpoint()),
                registry_auth=sealed,
                job_status=JobStatus(last_execution=now) if is_job(full) else None,
            )
            return Group((Create(service),), f"service {full.name} created"), identity

        return await self._writer.write(decide)

    async def update(self, text: str, request: ServiceUpdate) -> None:
        """Take a new spec, or the one before."""
        if request.rollback not in ("", "none", "previous"):
            raise invalid("rollback", f"unrecognized rollback option {request.rollback}")
        if request.registry_auth_from not in ("", "spec", "previous-spec"):
            raise invalid(
                "registryAuthFrom",
                f"unsupported registryAuthFrom value {request.registry_auth_from}",
            )
        auth = read_header(request.registry_auth)

        def decide() -> tuple[Group, None]:
            service = find_service(self._memory, text)
            self._check_version(service, request.version)
            spec = resolve_networks(self._memory, _wanted(service, request))
            check_referents(self._memory, spec)
            check_ports_free(self._memory, spec, service.id)
            changed = _changed(service, spec, self._clock.now(), request.rolls_back)
            if auth:
                sealed = seal_registry_auth(self._sealer, service.id, auth)
                changed = msgspec.structs.replace(changed, registry_auth=sealed)
            return Group((Update(changed),), f"service {spec.name} updated"), None

        await self._writer.write(decide)

    async def remove(self, text: str) -> None:
        """Forget the service; its tasks are shut down because of that."""

        def decide() -> tuple[Group, None]:
            service = find_service(self._memory, text)
            return Group((Delete(service),), f"service {service.spec.name} removed"), None

        await self._writer.write(decide)

    def _check_version(self, service: Service, version: int) -> None:
        """What the caller read must hold the present spec.

        Revisions since then are those of the leader, who writes the state of an update into
        the same object: they lose nothing of the user's and refuse nobody.
        """
        key = f"{service.id}/{service.spec_version}"
        versions = self._memory.versions_of_service(service.id)
        since = next((v.guard for v in versions if v.id == key), service.version)
        if not since <= version <= service.version:
            raise out_of_sequence()

    def _free_name(self) -> str:
        attempt = 0
        while True:
            name = invent_name(self._chance, attempt)
            if self._memory.service_named(name) is None:
                return name
            attempt += 1


def _wanted(service: Service, request: ServiceUpdate) -> ServiceSpec:
    """The spec that the update leads to."""
    if request.rolls_back:
        if service.previous_spec is None:
            raise precondition(f"service {service.spec.name} does not have a previous spec")
        return service.previous_spec
    spec = request.spec
    check_service(spec)
    if spec.name != service.spec.name:
        raise unimplemented("Name", "renaming services is not supported")
    if mode_of(spec) is not mode_of(service.spec):
        raise unimplemented("Mode", "service mode change is not allowed")
    return canonical_service(spec)


def _changed(service: Service, spec: ServiceSpec, now: datetime, rollback: bool) -> Service:
    status = None
    if rollback and not is_job(spec):
        status = UpdateStatus(
            state=UpdateState.ROLLBACK_STARTED,
            started_at=now,
            message="manually requested rollback",
        )
    changed = msgspec.structs.replace(service, update_status=status, updated_at=now)
    if spec == service.spec:
        return changed  # begins a paused update anew, and keeps what could be rolled back to
    return msgspec.structs.replace(
        changed,
        spec=spec,
        job_status=_next_run(service, now) if is_job(spec) else None,
        spec_version=service.spec_version + 1,
        previous_spec=service.spec,
        previous_spec_version=service.spec_version,
        endpoint=endpoint_after(spec, service.endpoint),
    )


def _next_run(service: Service, now: datetime) -> JobStatus:
    """A changed job runs anew."""
    before = service.job_status or JobStatus()
    return JobStatus(iteration=before.iteration + 1, last_execution=now)


def check_ports_free(view: View, spec: ServiceSpec, owner: ServiceID) -> None:
    """An ingress port belongs to one service, and to no host-mode port of another."""
    wanted = {
        (port.protocol, port.published_port, port.publish_mode): port
        for port in endpoint_of(spec).ports
        if port.published_port
    }
    if not wanted:
        return
    for service in view.services():
        if service.id == owner:
            continue
        for taken in service.endpoint.ports:
            _check_port(taken, wanted, service)


def _check_port(
    taken: PortConfig, wanted: dict[tuple[str, int, str], PortConfig], owner: Service
) -> None:
    at = (taken.protocol or "tcp", taken.published_port)
    host_mode = is_host_port(taken)
    if (*at, "ingress") in wanted or (not host_mode and (*at, "host") in wanted):
        how = "a host-published" if host_mode else "an ingress"
        raise invalid(
            "",
            f"port '{taken.published_port}' is already in use by service"
            f" '{owner.spec.name}' ({owner.id}) as {how} port",
        )
