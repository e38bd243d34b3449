"""What the Engine API has and this agent does not (yet): each answers with a sentence."""

from aiohttp import web

from shoal.common.engine_http.call import Call
from shoal.common.engine_http.router import Handler, Router
from shoal.model.errors import NotFound, Unimplemented

_BUILD = "building images is not there yet: build elsewhere, docker save, docker load"
_PLUGINS = "plugins are not supported"

_ROUTES = (
    ("GET", "/containers/{id}/attach/ws", "attaching by websocket is not supported"),
    ("GET POST DELETE", "/containers/{id}/checkpoints", "checkpoints are not supported"),
    ("POST", "/commit", "committing containers to images is not there yet"),
    ("GET", "/images/search", "searching registries is not supported"),
    ("POST", "/images/{name*}/push", "pushing images is not there yet"),
    ("POST", "/build", _BUILD),
    ("POST", "/build/cancel", _BUILD),
    ("POST", "/session", f"BuildKit is not supported, and {_BUILD}"),
    ("POST", "/grpc", f"BuildKit is not supported, and {_BUILD}"),
    ("PUT", "/volumes/{name}", "cluster volumes (CSI) are not supported"),
    ("GET", "/plugins/privileges", _PLUGINS),
    ("POST", "/plugins/{rest*}", _PLUGINS),
    ("DELETE", "/plugins/{rest*}", _PLUGINS),
)


def add_routes(router: Router) -> None:
    """Routes that answer 501, and those that have a true answer: there are none."""
    router.add("GET", "/plugins", _no_plugins)
    router.add("GET", "/plugins/{name*}/json", _no_plugin)
    router.add("POST", "/build/prune", _no_build_cache)
    for methods, pattern, sentence in _ROUTES:
        for method in methods.split():
            router.add(method, pattern, _refusal(sentence))


def _refusal(sentence: str) -> Handler:
    async def refuse(call: Call) -> web.StreamResponse:
        raise Unimplemented(f"{call.request.method} {call.path}: {sentence}")

    return refuse


async def _no_plugins(call: Call) -> web.StreamResponse:
    return call.json([])


async def _no_plugin(call: Call) -> web.StreamResponse:
    raise NotFound(f'plugin "{call.parts["name"]}" not found')


async def _no_build_cache(call: Call) -> web.StreamResponse:
    return call.json({"CachesDeleted": None, "SpaceReclaimed": 0})
