"""`--force-new-cluster` keeps the cluster as it is, and only a manager can do it."""

import pytest
from msgspec.structs import replace

from agent.local_manager import WORKER_FORCES, check_forced
from shoal.common.certificates import Role
from shoal.common.config import HostConfig
from shoal.model.errors import InvalidArgument, Unavailable
from shoal.model.spec.cluster import (
    CAConfig,
    ClusterSpec,
    DispatcherConfig,
    EncryptionConfig,
    InitRequest,
)

CONFIG = HostConfig(address="10.0.0.1")
BY_THE_CLI = InitRequest(
    listen_addr="0.0.0.0:2377",
    advertise_addr="10.0.0.1:2377",
    force_new_cluster=True,
    subnet_size=24,
    availability="active",
    spec=ClusterSpec(
        name="",
        dispatcher=DispatcherConfig(heartbeat_period=0),
        ca_config=CAConfig(node_cert_expiry=0),
    ),
)


def test_what_the_cli_sends_by_itself_is_taken() -> None:
    check_forced(BY_THE_CLI, Role.MANAGER, CONFIG, "")
    check_forced(replace(BY_THE_CLI, advertise_addr=""), Role.MANAGER, CONFIG, "")


@pytest.mark.parametrize(
    ("field", "change"),
    [
        ("AdvertiseAddr", {"advertise_addr": "10.0.0.2"}),
        ("DataPathAddr", {"data_path_addr": "10.0.0.2"}),
        ("DataPathPort", {"data_path_port": 4790}),
        ("DefaultAddrPool", {"default_addr_pool": ("10.20.0.0/16",)}),
        ("AutoLockManagers", {"auto_lock_managers": True}),
        ("Availability", {"availability": "drain"}),
        ("Spec", {"spec": ClusterSpec(labels={"a": "b"})}),
        (
            "Spec",
            {"spec": ClusterSpec(encryption_config=EncryptionConfig(auto_lock_managers=True))},
        ),
    ],
)
def test_what_it_would_have_to_ignore_is_refused(field: str, change: dict[str, object]) -> None:
    with pytest.raises(InvalidArgument, match=f"{field}: .* keeps its settings") as refusal:
        check_forced(replace(BY_THE_CLI, **change), Role.MANAGER, CONFIG, "")
    assert refusal.value.field == field


def test_only_a_manager_that_is_not_removed_can_be_forced() -> None:
    with pytest.raises(Unavailable, match=WORKER_FORCES):
        check_forced(BY_THE_CLI, Role.WORKER, CONFIG, "")
    with pytest.raises(Unavailable, match="gone: leave with"):
        check_forced(BY_THE_CLI, Role.MANAGER, CONFIG, "gone")
