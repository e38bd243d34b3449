"""Pulls through the real skopeo from a small registry of the test's own, on loopback."""

import base64
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer

from agent.images.image import Progress, RegistryAuth
from agent.images.settings import ImageSettings
from agent.images.store import ImageStore
from shoal.common.clock import SystemClock
from shoal.model.errors import InvalidArgument, NotFound, Unavailable
from tests.unit.agent.images.crafting import entry, oci_image, sha, tar

pytestmark = pytest.mark.root

LAYER = tar(entry("f", b"hello"))
KIND = "application/vnd.oci.image."
AUTH = RegistryAuth(username="me", password="pass word")


class Registry:
    """The pull half of the distribution API, over plain HTTP, with basic credentials if set."""

    def __init__(self) -> None:
        self.blobs: dict[str, bytes] = {}
        self.manifests: dict[str, tuple[str, bytes]] = {}
        self.locked = False

    def app(self) -> web.Application:
        app = web.Application()
        app.router.add_get("/v2/", self.ping)
        app.router.add_get("/v2/{name:.+}/manifests/{ref}", self.manifest)
        app.router.add_get("/v2/{name:.+}/blobs/{digest}", self.blob)
        return app

    def put(self, name: str, content: bytes, kind: str = "manifest.v1+json") -> str:
        self.manifests[name] = self.manifests[sha(content)] = (KIND + kind, content)
        return sha(content)

    def refuse(self, request: web.Request) -> web.Response | None:
        wanted = base64.b64encode(b"me:pass word").decode()
        if not self.locked or request.headers.get("Authorization") == f"Basic {wanted}":
            return None
        errors = {"errors": [{"code": "UNAUTHORIZED", "message": "authentication required"}]}
        challenge = {"WWW-Authenticate": 'Basic realm="test"'}
        return web.json_response(errors, status=401, headers=challenge)

    async def ping(self, request: web.Request) -> web.Response:
        return self.refuse(request) or web.json_response({})

    async def manifest(self, request: web.Request) -> web.Response:
        if refused := self.refuse(request):
            return refused
        found = self.manifests.get(request.match_info["ref"])
        if found is None:
            errors = {"errors": [{"code": "MANIFEST_UNKNOWN", "message": "manifest unknown"}]}
            return web.json_response(errors, status=404)
        headers = {"Docker-Content-Digest": sha(found[1])}
        return web.Response(body=found[1], content_type=found[0], headers=headers)

    async def blob(self, request: web.Request) -> web.Response:
        content = self.blobs.get(request.match_info["digest"])
        return self.refuse(request) or (
            web.Response(status=404) if content is None else web.Response(body=content)
        )


@pytest.fixture
def registry() -> Registry:
    registry = Registry()
    manifest, blobs = oci_image(LAYER)
    registry.blobs |= blobs
    registry.put("1", manifest)
    return registry


@pytest.fixture
async def host(registry: Registry) -> AsyncIterator[str]:
    async with TestServer(registry.app(), host="127.0.0.1") as server:
        yield f"127.0.0.1:{server.port}"


@pytest.fixture
async def store(tmp_path: Path) -> ImageStore:
    store = ImageStore(
        tmp_path / "images", SystemClock(), ImageSettings(platform="linux/amd64")
    )
    await store.open()
    return store


def index(registry: Registry) -> bytes:
    digest, size = registry.manifests["1"][1], len(registry.manifests["1"][1])
    entries = ",".join(
        f'{{"mediaType":"{KIND}manifest.v1+json","digest":"{one}","size":{size},'
        f'"platform":{{"os":"linux","architecture":"{arch}"}}}}'
        for one, arch in ((sha(b"other"), "s390x"), (sha(digest), "amd64"))
    )
    return f'{{"schemaVersion":2,"manifests":[{entries}]}}'.encode()


async def test_pull_and_pull_again(store: ImageStore, host: str, tmp_path: Path) -> None:
    steps: list[Progress] = []
    image = await store.pull(f"{host}/team/x:1", progress=steps.append)
    assert image.repo_tags == (f"{host}/team/x:1",)
    assert image.repo_digests == (f"{host}/team/x@{image.manifest_digest}",)
    assert [step.status for step in steps] == [
        "Pulling from team/x",
        "Pulling fs layer",
        "Download complete",
        "Pull complete",
        f"Digest: {image.manifest_digest}",
        f"Status: Downloaded newer image for {host}/team/x:1",
    ]
    assert await store.pull(f"{host}/team/x:1", progress=steps.append) == image
    assert steps[-1].status == f"Status: Image is up to date for {host}/team/x:1"
    [lower] = await store.layers(image.id)
    assert (lower / "f").read_bytes() == b"hello"
    assert list((tmp_path / "images/tmp").iterdir()) == []


async def test_an_index_is_chosen_from(
    store: ImageStore, host: str, registry: Registry
) -> None:
    digest = registry.put("multi", index(registry), "index.v1+json")
    image = await store.pull(f"{host}/x:multi")
    assert image.repo_digests == (f"{host}/x@{digest}",)
    assert store.find(f"{host}/x@{digest}") == image
    assert store.blob_path(digest).exists()
    remote = await store.resolve_remote(f"{host}/x:multi")
    assert (remote.digest, remote.media_type) == (digest, KIND + "index.v1+json")
    assert [str(one) for one in remote.platforms] == ["linux/s390x", "linux/amd64"]
    with pytest.raises(NotFound, match="no matching manifest for linux/arm64"):
        await store.pull(f"{host}/x:multi", platform="linux/arm64")


async def test_a_single_manifest_is_described(store: ImageStore, host: str) -> None:
    remote = await store.resolve_remote(f"{host}/x:1")
    assert [str(one) for one in remote.platforms] == ["linux/amd64"]


async def test_credentials(
    store: ImageStore, host: str, registry: Registry, tmp_path: Path
) -> None:
    registry.locked = True
    with pytest.raises(NotFound) as refused:
        await store.pull(f"{host}/x:1")
    assert str(refused.value) == (
        f"pull access denied for {host}/x, repository does not exist or may require "
        "'docker login': denied: requested access to the resource is denied"
    )
    assert (await store.pull(f"{host}/x:1", AUTH)).repo_tags == (f"{host}/x:1",)
    assert list((tmp_path / "images/tmp").iterdir()) == []
    assert "pass word" not in repr(AUTH)


async def test_refusals(store: ImageStore, host: str, registry: Registry) -> None:
    with pytest.raises(NotFound) as unknown:
        await store.pull(f"{host}/x:nope")
    assert str(unknown.value) == (
        f"manifest for {host}/x:nope not found: manifest unknown: manifest unknown"
    )
    registry.blobs = dict.fromkeys(registry.blobs, b"damaged")
    with pytest.raises(Exception, match=r"[Dd]igest|could not be pulled"):
        await store.pull(f"{host}/x:1")
    assert store.list() == ()
    registry.blobs = oci_image(LAYER)[1]
    with pytest.raises(NotFound, match="does not match the specified platform"):
        await store.pull(f"{host}/x:1", platform="linux/arm64")
    with pytest.raises(InvalidArgument, match="invalid reference format"):
        await store.pull("a//b")


async def test_an_unreachable_registry(store: ImageStore) -> None:
    for name in ("127.0.0.1:9/x", "nosuch.invalid/x"):
        with pytest.raises(Unavailable, match="cannot be reached"):
            await store.pull(name)
