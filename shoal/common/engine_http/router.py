"""The table of paths: method and pattern to handler.

A pattern is literal but for `{name}` (one segment) and `{name*}` (any number: image names have
slashes). The first route that matches wins, so that special paths stand before general ones.
"""

import re
from collections.abc import Awaitable, Callable, Iterator, Mapping
from urllib.parse import unquote

import msgspec
from aiohttp import web

from shoal.common.engine_http.call import Call

Handler = Callable[[Call], Awaitable[web.StreamResponse]]

_VARIABLE = re.compile(r"\{(\w+)(\*?)\}")


class Route(msgspec.Struct, frozen=True):
    """One path of the API.

    Attributes:
        stream: the handler only reads or follows, and is cancelled when the client leaves;
            all others run to their end, so that a vanished client leaves nothing half done.
    """

    method: str
    pattern: str
    handler: Handler
    stream: bool = False


class Router:
    """Routes by method and first segment."""

    def __init__(self) -> None:
        self._table: dict[tuple[str, str], list[tuple[re.Pattern[str], Route]]] = {}

    def __iter__(self) -> Iterator[Route]:
        return (route for routes in self._table.values() for _, route in routes)

    def add(self, method: str, pattern: str, handler: Handler, *, stream: bool = False) -> None:
        """Add a route."""
        route = Route(method, pattern, handler, stream)
        key = (method, _first(pattern))
        self._table.setdefault(key, []).append((_compiled(pattern), route))

    def find(self, method: str, path: str) -> tuple[Route, Mapping[str, str]] | None:
        """The route of a path (without version, still quoted) and its variable parts."""
        for first in (_first(path), ""):
            for regex, route in self._table.get((method, first), ()):
                match = regex.fullmatch(path)
                if match is not None:
                    return route, {k: unquote(v) for k, v in match.groupdict().items()}
        return None


def _first(path: str) -> str:
    first = path.lstrip("/").partition("/")[0]
    return "" if "{" in first else first


def _compiled(pattern: str) -> re.Pattern[str]:
    regex, end = "", 0
    for match in _VARIABLE.finditer(pattern):
        regex += re.escape(pattern[end : match.start()])
        regex += f"(?P<{match[1]}>{'.+' if match[2] else '[^/]+'})"
        end = match.end()
    return re.compile(regex + re.escape(pattern[end:]), re.DOTALL)
