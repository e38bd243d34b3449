"""Jobs: as many completions as asked for, no more at a time than they may."""

from collections import Counter
from collections.abc import Iterable

from manager.orchestrator.newtask import iteration_of
from manager.orchestrator.slots import Cell, cell_of
from shoal.model.defaults import Mode, job_size, mode_of, restart_rule
from shoal.model.objects import Service, Task
from shoal.model.states import RestartCondition, TaskState
from tests.simulation.truth import Revision, Truth


class Jobs:
    """Checks each revision."""

    def __init__(self, truth: Truth) -> None:
        self._truth = truth

    def check(self, revision: Revision) -> None:
        seen = {e.object.service_id for e in revision.events if isinstance(e.object, Task)}
        for identity in sorted(seen):
            service = self._truth.view.service(identity)
            if service is not None and mode_of(service.spec) is Mode.REPLICATED_JOB:
                self._replicated(service)

    def _replicated(self, service: Service) -> None:
        sizes = [
            job_size(held.spec)
            for held in self._truth.lately(service)
            if mode_of(held.spec) is Mode.REPLICATED_JOB
        ]
        tasks = self._truth.view.tasks_of_service(service.id)
        name = service.spec.name
        at_once = {
            cell_of(task)
            for task in tasks
            if task.wanted and not task.ended and task.job_iteration == iteration_of(service)
        }
        most = max(size.concurrent for size in sizes)
        if len(at_once) > most:
            self._truth.object_to(f"{len(at_once)} tasks of job {name} at once, {most} may be")
        asked = max(size.completions for size in sizes)
        done = completed(service, tasks)
        if len(done) > asked:
            self._truth.object_to(f"job {name} has {len(done)} completions of {asked}")


def completed(service: Service, tasks: Iterable[Task]) -> set[Cell]:
    """The slots of the present iteration that are done."""
    return {
        cell_of(task)
        for task in tasks
        if task.status.state is TaskState.COMPLETE
        and task.job_iteration == iteration_of(service)
    }


def unfinished(truth: Truth, service: Service) -> str:
    """What a job that can end still lacks at rest, in words."""
    container = service.spec.task_template.container_spec
    if mode_of(service.spec) is not Mode.REPLICATED_JOB:
        return ""
    if container is None or container.image != "job":
        return ""
    tasks = truth.view.tasks_of_service(service.id)
    if any(not task.ended and task.wanted for task in tasks):
        return ""  # it waits, and says why
    done, asked = completed(service, tasks), job_size(service.spec).completions
    if len(done | _given_up(service, tasks)) == asked:
        return ""
    return f"job {service.spec.name} has {len(done)} of {asked} completions"


def _given_up(service: Service, tasks: Iterable[Task]) -> set[Cell]:
    """The slots whose tasks failed, with their host maybe, more often than may be."""
    rule = restart_rule(service.spec)
    failures = Counter(
        cell_of(task)
        for task in tasks
        if task.status.state in (TaskState.FAILED, TaskState.REJECTED)
        and task.job_iteration == iteration_of(service)
    )
    if rule.condition is RestartCondition.NONE:
        return set(failures)
    return {cell for cell, count in failures.items() if 0 < rule.max_attempts < count}
