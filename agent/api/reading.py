"""What the read-only socket answers: lists, inspection, logs, statistics and events. Pure.

It is for proxies and dashboards that would otherwise be given the socket that is root. What
opens a door is not among it though it only reads: join tokens and the unlock key (`/swarm`),
configs, files of containers and images. Environment variables are part of an inspection.
"""

import re

from shoal.common.engine_http.call import Call
from shoal.model.errors import PermissionDenied

_NAME = r"[^/%]+"
_IMAGE = r"[^%]+"
_READ = re.compile(
    "|".join(
        (
            "/_ping|/version|/info|/events|/system/df",
            "/containers/json",
            f"/containers/{_NAME}/(?:json|logs|stats|top|changes)",
            f"/exec/{_NAME}/json",
            f"/images/json|/images/{_IMAGE}/(?:json|history)",
            f"/(?:networks|volumes|services|tasks|nodes|secrets)(?:/{_NAME})?",
            f"/(?:services|tasks)/{_NAME}/logs",
        )
    )
)


def refuse_changes(call: Call) -> None:
    """The guard of the read-only socket.

    Raises:
        PermissionDenied: the call changes something, or reads what opens a door.
    """
    if call.request.method not in ("GET", "HEAD") or _READ.fullmatch(call.path) is None:
        raise PermissionDenied(
            f"{call.request.method} {call.path}: this socket is read-only; use docker.sock"
        )
