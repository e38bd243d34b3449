"""Placeholders in a container's spec, sizes, and what holds where nothing was said."""

from datetime import timedelta

import pytest

from shoal.model.container import DriverConfig, Mount, VolumeOptions
from shoal.model.defaults import (
    Mode,
    history_limit,
    job_size,
    mode_of,
    restart_rule,
    stop_grace,
    update_rule,
)
from shoal.model.errors import InvalidArgument
from shoal.model.spec.service import (
    Global,
    GlobalJob,
    ReplicatedJob,
    ServiceMode,
    UpdateConfig,
)
from shoal.model.spec.task import ContainerSpec, RestartPolicy, TaskSpec
from shoal.model.states import FailureAction, RestartCondition, UpdateOrder
from shoal.model.template import Context, expand, expand_container
from shoal.model.units import parse_size
from tests.builders import SECOND, make_spec

CONTEXT = Context(
    service_id="sid",
    service_name="web",
    service_labels={"tier": "front", "a.b": "dotted"},
    node_id="nid",
    node_hostname="host",
    task_id="tid",
    task_name="web.3.tid",
    task_slot="3",
)


@pytest.mark.parametrize(
    ("text", "expanded"),
    [
        ("plain", "plain"),
        ("{{.Service.ID}}/{{.Service.Name}}", "sid/web"),
        ("{{.Node.ID}}-{{ .Node.Hostname }}", "nid-host"),
        ("{{.Node.Platform.OS}} {{.Node.Platform.Architecture}}", "linux x86_64"),
        ("{{.Task.ID}} {{.Task.Name}} {{- .Task.Slot -}}", "tid web.3.tid 3"),
        ('{{index .Service.Labels "a.b"}}', "dotted"),
        ("{{index .Service.Labels `tier`}}", "front"),
        ("{{.Service.Labels.tier}}", "front"),
        ('{{join "-" .Service.Name .Task.Slot "x"}}', "web-3-x"),
        ('{{"literal"}}', "literal"),
    ],
)
def test_placeholders(text: str, expanded: str) -> None:
    assert expand(text, CONTEXT) == expanded


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("{{.Service.Nmae}}", ".Service.Nmae is not one of .Service.ID, "),
        ('{{index .Service.Labels "none"}}', "the service has no label none"),
        ("{{.Service.Labels.none}}", "the service has no label none"),
        ("{{if .Task.Slot}}x{{end}}", "{{if .Task.Slot}} is not understood"),
    ],
)
def test_wrong_ones_say_what_is_wrong(text: str, sentence: str) -> None:
    with pytest.raises(InvalidArgument) as caught:
        expand(text, CONTEXT)
    assert sentence in str(caught.value)


def test_the_places_that_hold_placeholders() -> None:
    slot = "{{.Task.Slot}}"
    spec = ContainerSpec(
        hostname=f"h{slot}",
        env=(f"A={slot}", f"{slot}=kept", "plain"),
        args=(slot,),
        mounts=(
            Mount(
                type="volume",
                source=f"v{slot}",
                target=f"/d{slot}",
                volume_options=VolumeOptions(
                    labels={"l": slot},
                    driver_config=DriverConfig(name="d", options={"o": slot}),
                ),
            ),
            Mount(type="volume", target="/b", volume_options=VolumeOptions(labels={"l": "x"})),
            Mount(type="tmpfs", target="/c"),
        ),
    )
    found = expand_container(spec, CONTEXT)
    assert found.hostname == "h3"
    assert found.env == ("A=3", f"{slot}=kept", "plain")
    assert found.args == (slot,)
    volume = found.mounts[0]
    assert (volume.source, volume.target) == ("v3", "/d3")
    assert volume.volume_options == VolumeOptions(
        labels={"l": "3"}, driver_config=DriverConfig(name="d", options={"o": "3"})
    )
    assert found.mounts[1:] == spec.mounts[1:]


@pytest.mark.parametrize(
    ("text", "size"),
    [("512", 512), ("10m", 10 << 20), ("1.5GiB", 3 << 29), (" 2 kb ", 2048), ("1T", 1 << 40)],
)
def test_sizes(text: str, size: int) -> None:
    assert parse_size(text) == size


@pytest.mark.parametrize("text", ["", "m", "1x", "-1m", "1,5g", "9" * 5000, "\u0661m"])
def test_what_is_no_size(text: str) -> None:
    with pytest.raises(ValueError, match="invalid size"):
        parse_size(text)


# -- defaults ----------------------------------------------------------------------------------


def test_modes() -> None:
    assert mode_of(make_spec()) is Mode.REPLICATED
    assert mode_of(make_spec(mode=ServiceMode(global_=Global()))) is Mode.GLOBAL
    assert mode_of(make_spec(mode=ServiceMode(global_job=GlobalJob()))) is Mode.GLOBAL_JOB


@pytest.mark.parametrize(
    ("job", "size"),
    [
        (ReplicatedJob(), (1, 1)),
        (ReplicatedJob(max_concurrent=3), (3, 3)),
        (ReplicatedJob(total_completions=5), (5, 1)),
        (ReplicatedJob(max_concurrent=0, total_completions=5), (5, 5)),
    ],
)
def test_the_size_of_a_job(job: ReplicatedJob, size: tuple[int, int]) -> None:
    found = job_size(make_spec(mode=ServiceMode(replicated_job=job)))
    assert (found.completions, found.concurrent) == size


def test_restart_policy() -> None:
    plain = restart_rule(make_spec())
    assert (plain.condition, plain.delay) == (RestartCondition.ANY, timedelta(seconds=5))
    assert (plain.max_attempts, plain.window) == (0, timedelta())
    policy = RestartPolicy(condition="none", delay=0, max_attempts=2, window=3 * SECOND)
    given = restart_rule(make_spec(restart=policy))
    assert (given.condition, given.delay) == (RestartCondition.NONE, timedelta())
    assert (given.max_attempts, given.window) == (2, timedelta(seconds=3))
    job = make_spec(mode=ServiceMode(global_job=GlobalJob()), restart=RestartPolicy())
    assert restart_rule(job).condition is RestartCondition.ON_FAILURE
    assert restart_rule(job).delay == timedelta(seconds=5)


def test_update_settings() -> None:
    absent = update_rule(make_spec())
    assert (absent.parallelism, absent.monitor) == (1, timedelta(seconds=5))
    zero = update_rule(make_spec(update=UpdateConfig()))
    assert zero.parallelism == 0
    assert (zero.failure_action, zero.order) == (FailureAction.PAUSE, UpdateOrder.STOP_FIRST)
    assert zero.deadline == timedelta(minutes=5, seconds=5)
    given = make_spec(
        update=UpdateConfig(monitor=2 * SECOND),
        rollback=UpdateConfig(parallelism=7, delay=SECOND, order="start-first"),
        labels={"shoal.update.deadline": "1.5m"},
    )
    assert update_rule(given).deadline == timedelta(seconds=90)
    back = update_rule(given, rollback=True)
    assert (back.parallelism, back.delay) == (7, timedelta(seconds=1))
    assert back.order is UpdateOrder.START_FIRST
    wrong = make_spec(labels={"shoal.update.deadline": "soon"})
    assert update_rule(wrong).deadline == timedelta(minutes=5, seconds=5)


def test_grace_and_history() -> None:
    assert stop_grace(TaskSpec()) == timedelta(seconds=10)
    given = TaskSpec(container_spec=ContainerSpec(stop_grace_period=2 * SECOND))
    assert stop_grace(given) == timedelta(seconds=2)
    assert history_limit(None) == 5
