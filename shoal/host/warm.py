"""The warm image: what agent and manager are forked from.

It holds what both use, so that each page of it is there once until somebody writes to it. A
counted reference is such a write: each program copies half of the image as it runs. So what
only one of them needs is imported by that one, after the fork, in 50 ms.
"""

import importlib
import importlib.util
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from shoal.host import memory
from shoal.model.errors import FailedPrecondition

SHARED = (
    "proto.ca_pb2_grpc",
    "proto.convert",
    "proto.dispatcher_pb2_grpc",
    "proto.members_pb2_grpc",
    "shoal.common.advertise",
    "shoal.common.engine_http.instants",
    "shoal.common.engine_http.relay",
    "shoal.common.engine_http.server",
    "shoal.common.entropy",
    "shoal.common.host_client",
    "shoal.common.join_token",
    "shoal.common.join_wire",
    "shoal.common.key_files",
    "shoal.common.known_managers",
    "shoal.common.log",
    "shoal.common.recovery_order",
    "shoal.common.renewal",
    "shoal.common.rpc",
    "shoal.common.supervise",
    "shoal.model.assignment",
    "shoal.model.defaults",
    "shoal.model.objects",
    "shoal.model.reference",
    "shoal.model.validate.cluster",
    "shoal.model.validate.mounts",
    "shoal.model.validate.network",
    "shoal.model.validate.node",
)
"""They bring all that both programs import (`tests/architecture/test_warm_image.py`)."""
_AUTHORITIES = ("SSL_CERT_FILE", "SSL_CERT_DIR")


def warm(shared: Sequence[str], programs: Sequence[str]) -> None:
    """Import what is shared, be sure of the programs, and make the image fit to be forked."""
    with _no_public_authorities():
        for module in shared:
            _import(module)
    for module in programs:
        _find(module)
    threads = len(os.listdir("/proc/self/task"))
    if threads > 1:
        raise FailedPrecondition(
            f"importing {', '.join(shared)} started {threads - 1} threads: "
            f"a host process with threads cannot fork"
        )
    memory.keep_heap_small()
    # What exists now never dies: no collection may touch, and so copy, its pages.
    memory.give_back()


@contextmanager
def _no_public_authorities() -> Iterator[None]:
    """Importing aiohttp reads all of the machine's root certificates: 2 MB.

    None of our connections trusts them, and registries are asked by skopeo.
    """
    kept = {name: os.environ.get(name) for name in _AUTHORITIES}
    os.environ.update(dict.fromkeys(_AUTHORITIES, os.devnull))
    try:
        yield
    finally:
        for name, value in kept.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value


def _import(module: str) -> None:
    try:
        importlib.import_module(module)
    except ImportError as error:
        raise _incomplete(module, str(error)) from error


def _find(module: str) -> None:
    """It is there; itself it is imported by its own process."""
    try:
        found = importlib.util.find_spec(module)
    except ImportError as error:
        raise _incomplete(module, str(error)) from error
    if found is None:
        raise _incomplete(module, "there is no such module")


def _incomplete(module: str, reason: str) -> FailedPrecondition:
    return FailedPrecondition(
        f"module {module} cannot be imported, the installation is incomplete: {reason}"
    )
