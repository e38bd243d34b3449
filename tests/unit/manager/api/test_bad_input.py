"""Bad input on every route of the cluster half, in one process: a 4xx that names the field.

Each body is spoiled in one place at a time, in every place that its type has. All of it goes
through the decoder and the rules; a seeded share goes over HTTP against a manager on a
simulated store, where nothing may be left behind.
"""

import random
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from urllib.parse import quote

import msgspec
import pytest

from agent.api import app
from agent.engine import checking
from agent.engine.creation import config_of
from manager.api.app import cluster_api
from manager.control.payloads import PayloadSpec, check_spec
from shoal.common.engine_http.body import decode
from shoal.common.engine_http.failures import status_of
from shoal.common.engine_http.router import Router
from shoal.model.container import ContainerCreate
from shoal.model.errors import ClusterError, InvalidArgument
from shoal.model.spec.cluster import ClusterSpec, InitRequest
from shoal.model.spec.network import NetworkSpec
from shoal.model.spec.node import NodeSpec
from shoal.model.spec.service import ServiceSpec
from shoal.model.validate.cluster import check_cluster, check_init
from shoal.model.validate.local_network import check_local_network
from shoal.model.validate.network import check_network
from shoal.model.validate.node import check_node
from shoal.model.validate.service import check_service
from tests.badinput.routes import CLUSTER, HOST, UNBUILT, Entry
from tests.badinput.spoiling import Spoiled, spoil
from tests.badinput.values import BAD_FILTERS, BAD_TEXTS, refusal_fault
from tests.unit.manager.api.serving import Client, serving

SHARE = 150
"""So many spoiled bodies of each route go over HTTP."""

BODIES = {entry.model: entry.body for entry in (*CLUSTER, *HOST) if entry.model is not None}
RULES: dict[type[msgspec.Struct], list[Callable[[Any], None]]] = {
    ServiceSpec: [check_service],
    ClusterSpec: [check_cluster],
    InitRequest: [check_init],
    NodeSpec: [check_node],
    NetworkSpec: [check_network, check_local_network],
    PayloadSpec: [lambda spec: check_spec(spec, "secret", 500 << 10)],
    ContainerCreate: [
        lambda asked: checking.check(config_of(asked), asked.host_config, init=True, cpus=2)
    ],
}


class Nothing:
    """Stands for all that handlers are made of, where none of them is called."""

    revision = 0

    def __getattr__(self, name: str) -> "Nothing":
        return Nothing()

    def __call__(self, *_: object) -> "Nothing":
        return Nothing()

    def __iter__(self) -> Iterator["Nothing"]:
        return iter(())


def routes(router: Router) -> set[str]:
    """Method and pattern of each that is answered here, and not passed on."""
    return {
        f"{route.method} {route.pattern}" for route in router if "rest*" not in route.pattern
    }


def test_the_tables_name_every_route() -> None:
    nothing: Any = Nothing()
    served = routes(cluster_api(nothing))
    passed_on = {route for route in served if " /containers/" in route}
    assert {entry.route for entry in CLUSTER} == served - passed_on
    roots = {" /swarm", " /nodes", " /services", " /tasks", " /secrets", " /configs"}
    of_host = routes(app.build(nothing, nothing, nothing, nothing, ("", ""), nothing))
    piped = {route for route in of_host if any(route.endswith(root) for root in roots)}
    known = {entry.route for entry in HOST} | {r for r in UNBUILT if "rest*" not in r}
    assert known == of_host - piped


@pytest.mark.parametrize("model", BODIES, ids=lambda model: model.__name__)
def test_no_body_breaks_the_rules(model: type[msgspec.Struct]) -> None:
    seen = 0
    for one in spoil(model, BODIES[model]):
        seen += 1
        error = judged(model, one)
        assert error is not None or not one.wrong, f"{one.path} takes {one.value!r}"
        assert error is None or status_of(error) in (400, 403, 404, 501), (one, error)
        if one.named:
            assert isinstance(error, InvalidArgument)
            assert error.field == one.path, (one, error)
            assert one.path in str(error)
    assert seen > 10


def judged(model: type[msgspec.Struct], one: Spoiled) -> ClusterError | None:
    """What decoder and rules say; anything but a refusal of ours is a fault."""
    try:
        body = decode(one.body, model)
        for check in RULES.get(model, []):
            check(body)
    except ClusterError as error:
        return error
    return None


@pytest.mark.parametrize(
    "entry", [e for e in CLUSTER if e.model is not None], ids=lambda entry: entry.route
)
async def test_a_refused_body_leaves_nothing(tmp_path: Path, entry: Entry) -> None:
    assert entry.model is not None
    wrong = [one for one in spoil(entry.model, entry.body) if one.wrong]
    chosen = random.Random(1).sample(wrong, min(SHARE, len(wrong)))
    async with serving(tmp_path) as (cell, client):
        before = cell.memory.revision
        for one in chosen:
            await refused(client, "POST", entry.path, one)
        assert cell.memory.revision == before


async def refused(client: Client, method: str, path: str, one: Spoiled) -> None:
    status, answer = await client.ask(method, path, one.body)
    at_join = path in ("/swarm/init", "/swarm/join")  # of a host that is in a cluster already
    assert status == (503 if at_join else 400), (one, status, answer)
    assert refusal_fault(status, answer) == "", (one, answer)


@pytest.mark.parametrize("entry", CLUSTER, ids=lambda entry: entry.route)
async def test_queries_and_filters(tmp_path: Path, entry: Entry) -> None:
    method = entry.route.partition(" ")[0]
    joint = "&" if "?" in entry.path else "?"
    asked = [f"{name}={quote(text)}" for name in entry.query for text in BAD_TEXTS]
    asked += [f"filters={quote(text)}" for text in BAD_FILTERS if entry.filters]
    async with serving(tmp_path) as (_, client):
        for query in asked:
            body = entry.body if entry.model is not None else None
            status, answer = await client.ask(method, f"{entry.path}{joint}{query}", body)
            assert status < 500 or "out of sequence" in answer["message"], (query, answer)
            if status >= 400:
                assert refusal_fault(status, answer) == "", (query, answer)
            assert status >= 400 or quote('{"nosuch":') not in query
