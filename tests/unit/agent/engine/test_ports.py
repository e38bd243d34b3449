"""Published ports, from Docker's maps to what is bound."""

from typing import Any

import pytest

from agent.engine import ports
from agent.network.desired import PortBinding
from shoal.model.container import ContainerConfig, HostConfig
from shoal.model.container import PortBinding as Asked
from shoal.model.errors import InvalidArgument


def wanted(**bindings: str) -> tuple[PortBinding, ...]:
    """`p80="8080"` publishes container port 80 on 8080."""
    asked: dict[str, Any] = {
        f"{key[1:]}/tcp": (Asked(host_port=text),) for key, text in bindings.items()
    }
    return ports.wanted(ContainerConfig(), HostConfig(port_bindings=asked))


@pytest.mark.parametrize(
    ("text", "first", "last"),
    [
        ("", 0, 0),
        ("0", 0, 0),
        ("8080", 8080, 0),
        ("8000-8010", 8000, 8010),
        ("8000-8000", 8000, 0),
        ("65535", 65535, 0),
    ],
)
def test_a_port_a_range_or_any(text: str, first: int, last: int) -> None:
    (found,) = wanted(p80=text)
    assert (found.host_port, found.last_host_port) == (first, last)
    assert found.container_port == 80


@pytest.mark.parametrize(
    "text", ["x", "65536", "8010-8000", "8000-", "-8000", "0-5", "8000-70000", "1-2-3", " 80"]
)
def test_what_is_no_port_is_refused(text: str) -> None:
    with pytest.raises(InvalidArgument, match="invalid port specification"):
        wanted(p80=text)
