from typing import Any

import msgspec
import pytest

from shoal.model.errors import InvalidArgument, Unimplemented
from shoal.model.spec.service import ServiceSpec, UpdateConfig
from shoal.model.validate.service import check_service
from shoal.model.validate.task import task_warnings

C = "TaskTemplate.ContainerSpec"
OPEN = {"TargetPort": 80}


def secret(**file: Any) -> list[dict[str, Any]]:
    return [{"SecretID": "x", "SecretName": "y", "File": {"Name": "f", "Mode": 292, **file}}]


def spec_with(path: str, value: Any) -> ServiceSpec:
    """A good spec with one thing set."""
    raw: dict[str, Any] = {"Name": "web", "TaskTemplate": {"ContainerSpec": {"Image": "a"}}}
    *above, last = path.split(".")
    at = raw
    for name in above:
        at = at.setdefault(name, {})
    at[last] = value
    return msgspec.convert(raw, ServiceSpec)


@pytest.mark.parametrize(
    ("path", "value", "named"),
    [
        ("Name", "-web", "Name"),
        (f"{C}.Image", "", f"{C}.Image"),
        (f"{C}.Image", "a:b:c", f"{C}.Image"),
        (f"{C}.Env", ["=x"], f"{C}.Env[0]"),
        (f"{C}.Env", ["a=\0"], f"{C}.Env[0]"),
        (f"{C}.Env", ["a={{.Nope}}"], C),
        (f"{C}.Dir", "tmp", f"{C}.Dir"),
        (f"{C}.Mounts", [{"Type": "bind", "Target": "/a"}], f"{C}.Mounts[0].Source"),
        (f"{C}.Mounts", [{"Type": "tmpfs", "Target": "a"}], f"{C}.Mounts[0].Target"),
        (f"{C}.Mounts", [{"Type": "tmpfs", "Target": "/a"}] * 2, f"{C}.Mounts[1].Target"),
        (f"{C}.Healthcheck", {"Interval": 5}, f"{C}.Healthcheck.Interval"),
        (f"{C}.OomScoreAdj", 1001, f"{C}.OomScoreAdj"),
        ("TaskTemplate.Resources.Limits.NanoCPUs", 5, "TaskTemplate.Resources.Limits.NanoCPUs"),
        ("TaskTemplate.RestartPolicy.Condition", "x", "TaskTemplate.RestartPolicy.Condition"),
        ("TaskTemplate.RestartPolicy.Delay", -1, "TaskTemplate.RestartPolicy.Delay"),
        ("TaskTemplate.Placement.Constraints", ["x"], "TaskTemplate.Placement.Constraints[0]"),
        ("TaskTemplate.Placement.MaxReplicas", -1, "TaskTemplate.Placement.MaxReplicas"),
        ("TaskTemplate.ForceUpdate", 1 << 63, "TaskTemplate.ForceUpdate"),
        (f"{C}.Secrets", [{"SecretID": "x"}], f"{C}.Secrets[0]"),
        (f"{C}.Secrets", [{"SecretID": "x", "SecretName": "y"}], f"{C}.Secrets[0].File"),
        (f"{C}.Secrets", secret(Name="../f"), f"{C}.Secrets[0].File.Name"),
        (f"{C}.Secrets", secret(UID="root"), f"{C}.Secrets[0].File.UID"),
        (f"{C}.Secrets", secret(Mode=-1), f"{C}.Secrets[0].File.Mode"),
        (f"{C}.Secrets", secret() * 2, f"{C}.Secrets[1].File.Name"),
        (f"{C}.Configs", [{"ConfigID": "x"}], f"{C}.Configs[0]"),
        ("UpdateConfig.Order", "x", "UpdateConfig.Order"),
        ("UpdateConfig.MaxFailureRatio", 1.5, "UpdateConfig.MaxFailureRatio"),
        ("RollbackConfig.FailureAction", "rollback", "RollbackConfig.FailureAction"),
        ("EndpointSpec", {"Mode": "dnsrr", "Ports": [OPEN]}, "EndpointSpec.Ports[0]"),
        ("EndpointSpec.Ports", [OPEN, OPEN], "EndpointSpec.Ports[1].TargetPort"),
        ("EndpointSpec.Ports", [{"TargetPort": 0}], "EndpointSpec.Ports[0].TargetPort"),
        ("Mode.Replicated.Replicas", -1, "Mode.Replicated.Replicas"),
        (
            "TaskTemplate.LogDriver",
            {"Name": "local", "Options": {"x": "1"}},
            "TaskTemplate.LogDriver.Options.x",
        ),
        ("TaskTemplate.Networks", [{}], "TaskTemplate.Networks[0].Target"),
        ("Networks", [{"Target": "n", "Aliases": ["a b"]}], "Networks[0].Aliases[0]"),
        ("Mode.ReplicatedJob.MaxConcurrent", -1, "Mode.ReplicatedJob.MaxConcurrent"),
        ("Mode.ReplicatedJob.TotalCompletions", 1 << 40, "Mode.ReplicatedJob.TotalCompletions"),
    ],
)
def test_a_refusal_names_the_field(path: str, value: Any, named: str) -> None:
    with pytest.raises(InvalidArgument) as refused:
        check_service(spec_with(path, value))
    assert refused.value.field == named
    prefix = f"rpc error: code = InvalidArgument desc = {named}: "
    assert str(refused.value).startswith(prefix)


@pytest.mark.parametrize(
    ("path", "value"),
    [
        ("TaskTemplate.Runtime", "plugin"),
        ("TaskTemplate.LogDriver.Name", "syslog"),
        ("TaskTemplate.LogDriver", {"Options": {"compress": "true"}}),
        ("TaskTemplate.Resources.SwapBytes", 5),
        (f"{C}.Isolation", "hyperv"),
        (f"{C}.Configs", [{"ConfigID": "x", "ConfigName": "y", "Runtime": {}}]),
        (f"{C}.Mounts", [{"Type": "cluster", "Source": "x", "Target": "/a"}]),
        (f"{C}.Privileges.CredentialSpec", {"File": "x"}),
    ],
)
def test_what_is_not_there_is_said(path: str, value: Any) -> None:
    with pytest.raises(Unimplemented) as refused:
        check_service(spec_with(path, value))
    assert path.partition("[")[0].split(".")[-1] in str(refused.value)


def test_a_full_spec_passes() -> None:
    for path, value in (
        ("TaskTemplate.Placement.Constraints", ["node.role != manager", "node.labels.a==b"]),
        ("EndpointSpec.Ports", [{"TargetPort": 80, "PublishedPort": 80}, OPEN]),
        (f"{C}.Env", ["A={{.Service.Name}}", "B"]),
        (f"{C}.Mounts", [{"Type": "volume", "Source": "v", "Target": "/a"}]),
        ("TaskTemplate.Resources.Limits", {"NanoCPUs": 1_000_000, "MemoryBytes": 4 << 20}),
    ):
        check_service(spec_with(path, value))


def test_a_job_has_no_update_configuration() -> None:
    spec = spec_with("Mode.ReplicatedJob", {})
    check_service(spec)
    with pytest.raises(InvalidArgument) as refused:
        check_service(msgspec.structs.replace(spec, update_config=UpdateConfig()))
    assert refused.value.field == "UpdateConfig"


RESERVED = "TaskTemplate.Resources.Reservations.GenericResources"


@pytest.mark.parametrize(
    ("path", "value"),
    [
        ("TaskTemplate.Networks", [{"Target": "n", "DriverOpts": {"my.own": "label"}}]),
        (RESERVED, [{"NamedResourceSpec": {"Kind": "gpu", "Value": "one"}}]),
        (f"{C}.Privileges", {"SELinuxContext": {"Disable": True}}),
    ],
)
def test_what_dockers_clients_send_is_taken(path: str, value: Any) -> None:
    check_service(spec_with(path, value))


@pytest.mark.parametrize(
    ("path", "value", "named"),
    [
        (
            "TaskTemplate.Networks",
            [{"Target": "n", "DriverOpts": {"com.docker.network.endpoint.ifname": "e"}}],
            "com.docker.network.endpoint.ifname",
        ),
        (
            f"{C}.Privileges",
            {"SELinuxContext": {"Disable": True, "Type": "t"}},
            "SELinuxContext",
        ),
    ],
)
def test_what_would_be_without_effect_is_not(path: str, value: Any, named: str) -> None:
    with pytest.raises(Unimplemented, match=named):
        check_service(spec_with(path, value))


def test_a_spread_over_nothing_is_warned_of() -> None:
    path = "TaskTemplate.Placement.Preferences"
    over = [{"Spread": {"SpreadDescriptor": s}} for s in ("node.labels.a", "rack", "")]
    spec = spec_with(path, over)
    check_service(spec)
    first, second = task_warnings(spec.task_template)
    assert "Preferences[1].Spread.SpreadDescriptor: 'rack' is neither node.labels" in first
    assert "Preferences[2]" in second
