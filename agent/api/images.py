"""`/images` and `/distribution`: the image store in Docker's words."""

import asyncio
import base64
import binascii
from collections.abc import AsyncIterator
from datetime import UTC, datetime
from fnmatch import fnmatchcase
from typing import Any

import msgspec
from aiohttp import web

from agent.engine.engine import Engine
from agent.engine.pruning import Pruning
from agent.images.image import Image, Progress, RegistryAuth
from agent.images.store import ImageStore
from shoal.common.clock import Clock
from shoal.common.engine_http.call import Call, Stream
from shoal.common.engine_http.query import Filters
from shoal.common.engine_http.router import Router
from shoal.model.errors import ClusterError, InvalidArgument, Unimplemented
from shoal.model.reference import parse_reference

_LIST_FILTERS = frozenset({"before", "dangling", "label", "reference", "since", "until"})


class AuthConfig(msgspec.Struct, frozen=True, kw_only=True):
    """`X-Registry-Auth`, as `docker login` keeps it."""

    username: str = ""
    password: str = ""
    identitytoken: str = ""


class _LateStream:
    """Progress that begins with its second step, the first that was got from a registry.

    What fails before has a status of its own, as with Docker.
    """

    def __init__(self, call: Call) -> None:
        self._call = call
        self._held: list[Progress] = []
        self.stream: Stream | None = None

    async def tell(self, step: Progress) -> None:
        self._held.append(step)
        if self.stream is not None or len(self._held) > 1:
            await self.begun()

    async def begun(self) -> Stream:
        """The stream, with all that was told so far."""
        if self.stream is None:
            self.stream = await self._call.stream("application/json")
        held, self._held = self._held, []
        for step in held:
            await self.stream.json(_progress(step))
        return self.stream


class Images:
    """Handlers of images."""

    def __init__(self, store: ImageStore, engine: Engine, clock: Clock) -> None:
        self._store = store
        self._clock = clock
        self._engine = engine

    def add_routes(self, router: Router) -> None:
        router.add("GET", "/images/json", self.list_all)
        router.add("GET", "/images/get", self.save, stream=True)
        router.add("GET", "/images/{name*}/get", self.save, stream=True)
        router.add("POST", "/images/load", self.load)
        router.add("POST", "/images/create", self.pull)
        router.add("POST", "/images/prune", self.prune)
        router.add("GET", "/images/{name*}/json", self.inspect)
        router.add("GET", "/images/{name*}/history", self.history)
        router.add("POST", "/images/{name*}/tag", self.tag)
        router.add("DELETE", "/images/{name*}", self.remove)
        router.add("GET", "/distribution/{name*}/json", self.distribution)

    async def list_all(self, call: Call) -> web.StreamResponse:
        filters = call.filters(_LIST_FILTERS)
        aged = Pruning(Filters({"until": filters.get("until")}), self._clock.now())
        images = [
            image
            for image in self._store.list()
            if _matches(image, filters) and aged.takes({}, _instant(image.created))
        ]
        for key in ("before", "since"):
            for text in filters.get(key):
                edge = self._store.find(text).created or ""
                older = key == "before"
                images = [
                    i
                    for i in images
                    if ((i.created or "") < edge) == older and i.created != edge
                ]
        return call.json([self._row(image) for image in images])

    def _row(self, image: Image) -> dict[str, Any]:
        users = sum(c.record.image_id == image.id for c in self._engine.registry)
        return {
            "Id": image.id,
            "ParentId": "",
            "RepoTags": list(image.repo_tags),
            "RepoDigests": list(image.repo_digests),
            "Created": unix(image.created),
            "Size": image.size,
            "SharedSize": -1,
            "VirtualSize": image.size,
            "Labels": dict(image.config.labels or {}) or None,
            "Containers": users,
        }

    async def save(self, call: Call) -> web.StreamResponse:
        names = [call.parts["name"]] if "name" in call.parts else call.texts("names")
        if not names:
            raise InvalidArgument("names must name the images to save", field="names")
        async with self._store.saved(names) as archive:
            stream = await call.stream("application/x-tar")
            async for data in archive:
                await stream.write(data)
        return stream.response

    async def load(self, call: Call) -> web.StreamResponse:
        async def chunks() -> AsyncIterator[bytes]:
            async for chunk in call.request.content.iter_chunked(1 << 18):
                yield chunk

        try:
            loaded = await self._store.load(chunks())
        except ClusterError as error:
            # Docker's answer has begun by then, and its clients look for the sentence there.
            stream = await call.stream("application/json")
            await stream.failure(str(error))
            return stream.response
        stream = await call.stream("application/json")
        for each in loaded:
            await stream.json({"stream": each.line + "\n"})
            self._publish("load", each.image)
        return stream.response

    async def pull(self, call: Call) -> web.StreamResponse:
        if call.text("fromSrc"):
            raise Unimplemented("docker import is not supported: use docker load")
        name, tag = call.text("fromImage"), call.text("tag")
        if not name:
            raise InvalidArgument("fromImage names no image", field="fromImage")
        if tag:
            name += f"@{tag}" if tag.startswith("sha256:") else f":{tag}"
        parse_reference(name)
        auth = parse_auth(call.request.headers.get("X-Registry-Auth", ""))
        progress = _LateStream(call)
        try:
            image = await self._pulled(progress, name, auth, call.text("platform") or None)
        except ClusterError as error:
            if progress.stream is None:
                raise
            await progress.stream.failure(str(error))
            return progress.stream.response
        self._publish("pull", image)
        return (await progress.begun()).response

    async def _pulled(
        self,
        progress: "_LateStream",
        name: str,
        auth: RegistryAuth | None,
        platform: str | None,
    ) -> Image:
        told: asyncio.Queue[Progress | None] = asyncio.Queue()

        async def tell() -> None:
            while (step := await told.get()) is not None:
                await progress.tell(step)

        async with asyncio.TaskGroup() as group:
            telling = group.create_task(tell())
            try:
                return await self._store.pull(name, auth, platform, told.put_nowait)
            except ClusterError as error:
                failure = error
            finally:
                told.put_nowait(None)
        await telling
        raise failure

    async def inspect(self, call: Call) -> web.StreamResponse:
        image = self._store.find(call.parts["name"])
        before = _BEFORE_1_45 if call.version < (1, 45) else {}
        return call.json(_inspected(image) | before)

    async def history(self, call: Call) -> web.StreamResponse:
        rows = [
            {
                "Id": row.id,
                "Created": unix(row.created),
                "CreatedBy": row.created_by,
                "Tags": list(row.tags) or None,
                "Size": row.size,
                "Comment": row.comment,
            }
            for row in self._store.history(call.parts["name"])
        ]
        return call.json(rows)

    async def tag(self, call: Call) -> web.StreamResponse:
        repo, tag = call.text("repo"), call.text("tag")
        if not repo:
            raise InvalidArgument("repo names no repository", field="repo")
        source = self._store.find(call.parts["name"])
        await self._store.tag(call.parts["name"], f"{repo}:{tag}" if tag else repo)
        self._publish("tag", source)
        return call.empty(201)

    async def remove(self, call: Call) -> web.StreamResponse:
        image = self._store.find(call.parts["name"])
        told = await self._store.remove(call.parts["name"], force=call.flag("force"))
        for action, _ in told:
            self._publish("untag" if action == "Untagged" else "delete", image)
        return call.json([{action: what} for action, what in told])

    async def prune(self, call: Call) -> web.StreamResponse:
        filters = call.filters({"dangling", "label", "label!", "until"})
        chosen = Pruning(filters, self._clock.now())
        only_dangling = filters.truth("dangling") is not False
        used = {container.record.image_id for container in self._engine.registry}
        told: list[tuple[str, str]] = []
        freed = 0
        for image in self._store.list():
            if image.id in used or (only_dangling and image.repo_tags):
                continue
            if chosen.takes(image.config.labels or {}, _instant(image.created)):
                told += await self._store.remove(image.id, force=True)
                freed += image.size
        deleted = [{action: what} for action, what in told]
        return call.json({"ImagesDeleted": deleted or None, "SpaceReclaimed": freed})

    async def distribution(self, call: Call) -> web.StreamResponse:
        auth = parse_auth(call.request.headers.get("X-Registry-Auth", ""))
        remote = await self._store.resolve_remote(call.parts["name"], auth)
        descriptor = {
            "mediaType": remote.media_type,
            "digest": remote.digest,
            "size": remote.size,
        }
        platforms = [
            {"architecture": p.architecture, "os": p.os}
            | ({"variant": p.variant} if p.variant else {})
            for p in remote.platforms
        ]
        return call.json({"Descriptor": descriptor, "Platforms": platforms})

    def _publish(self, action: str, image: Image) -> None:
        name = image.repo_tags[0] if image.repo_tags else image.id
        labels = dict(image.config.labels or {})
        self._engine.events.publish("image", action, image.id, labels | {"name": name})


def parse_auth(header: str) -> RegistryAuth | None:
    """The credentials of `X-Registry-Auth`; None where the client is logged out."""
    if not header:
        return None
    try:
        padded = header + "=" * (-len(header) % 4)
        auth = msgspec.json.decode(base64.urlsafe_b64decode(padded), type=AuthConfig)
    except (binascii.Error, ValueError, msgspec.DecodeError) as error:
        raise InvalidArgument(f"invalid X-Registry-Auth header: {error}") from error
    if not (auth.username or auth.identitytoken):
        return None
    return RegistryAuth(
        username=auth.username, password=auth.password, identity_token=auth.identitytoken
    )


def _progress(step: Progress) -> dict[str, Any]:
    shape: dict[str, Any] = {"status": step.status}
    if step.layer:
        shape["id"] = step.layer
        shape["progressDetail"] = (
            {"current": step.current, "total": step.total} if step.total else {}
        )
    return shape


def _matches(image: Image, filters: Filters) -> bool:
    dangling = filters.truth("dangling")
    if dangling is not None and dangling == bool(image.repo_tags):
        return False
    if "reference" in filters and not any(
        _named(tag, wanted) for tag in image.repo_tags for wanted in filters.get("reference")
    ):
        return False
    return filters.labels(image.config.labels or {})


def _named(tag: str, wanted: str) -> bool:
    repository = tag.rpartition(":")[0]
    return fnmatchcase(tag, wanted) or fnmatchcase(repository, wanted)


_BEFORE_1_45: dict[str, Any] = {"Container": "", "ContainerConfig": {}}
"""Of builds by containers; clients of the time fail where it is missing."""


def _inspected(image: Image) -> dict[str, Any]:
    config: dict[str, Any] = msgspec.to_builtins(image.config)
    shape: dict[str, Any] = {
        "Id": image.id,
        "RepoTags": list(image.repo_tags),
        "RepoDigests": list(image.repo_digests),
        "Parent": "",
        "Comment": image.comment,
        "Created": image.created,
        "DockerVersion": "",
        "Author": image.author,
        "Config": {key: value for key, value in config.items() if value is not None},
        "Architecture": image.architecture,
        "Os": image.os,
        "Size": image.size,
        "VirtualSize": image.size,
        "GraphDriver": {"Data": None, "Name": "overlay2"},
        "RootFS": {"Type": "layers", "Layers": list(image.layers)},
        "Metadata": {"LastTagTime": image.tagged_at or "0001-01-01T00:00:00Z"},
    }
    if image.variant:
        shape["Variant"] = image.variant
    return shape


def unix(created: str | None) -> int:
    """RFC 3339 as seconds since 1970; 0 where an image does not say."""
    at = _instant(created)
    return int(at.timestamp()) if at is not None else 0


def _instant(created: str | None) -> datetime | None:
    try:
        at = datetime.fromisoformat(created or "")
    except ValueError:
        return None
    return at if at.tzinfo else at.replace(tzinfo=UTC)
