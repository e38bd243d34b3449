"""Layers and image archives made by hand, sound and hostile, for the image store's tests."""

import gzip
import hashlib
import io
import json
import tarfile
from collections.abc import AsyncIterator, Mapping
from typing import Any


def entry(name: str, content: bytes = b"", **fields: Any) -> tuple[tarfile.TarInfo, bytes]:
    """A tar member; fields are those of `TarInfo` (`type`, `linkname`, `mode`, ...)."""
    member = tarfile.TarInfo(name)
    member.size = len(content)
    member.mode = 0o644
    for key, value in fields.items():
        setattr(member, key, value)
    return member, content


def folder(name: str, mode: int = 0o755) -> tuple[tarfile.TarInfo, bytes]:
    return entry(name, type=tarfile.DIRTYPE, mode=mode)


def tar(*entries: tuple[tarfile.TarInfo, bytes]) -> bytes:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w", format=tarfile.PAX_FORMAT) as archive:
        for member, content in entries:
            archive.addfile(member, io.BytesIO(content))
    return out.getvalue()


def sha(content: bytes) -> str:
    return "sha256:" + hashlib.sha256(content).hexdigest()


def config_of(*layers: bytes, **config: Any) -> bytes:
    return json.dumps(
        {
            "architecture": "amd64",
            "os": "linux",
            "created": "2026-01-02T03:04:05Z",
            "config": {"Cmd": ["sh"], "Env": ["PATH=/bin"], "Volumes": None, **config},
            "rootfs": {"type": "layers", "diff_ids": [sha(layer) for layer in layers]},
            "history": [{"created_by": f"step {n}"} for n, _ in enumerate(layers)],
        }
    ).encode()


def docker_archive(
    *layers: bytes, tags: tuple[str, ...] = ("demo:1",), config: bytes | None = None
) -> bytes:
    """What old `docker save` writes: manifest.json, a configuration, plain layers."""
    document = config if config is not None else config_of(*layers)
    name = sha(document)[7:] + ".json"
    paths = [f"{n}/layer.tar" for n, _ in enumerate(layers)]
    saved = [{"Config": name, "RepoTags": list(tags) or None, "Layers": paths}]
    return tar(
        entry(name, document),
        *(entry(path, layer) for path, layer in zip(paths, layers, strict=True)),
        entry("manifest.json", json.dumps(saved).encode()),
    )


def oci_image(*layers: bytes, compress: bool = True) -> tuple[bytes, dict[str, bytes]]:
    """A manifest and the blobs that it names."""
    blobs = [gzip.compress(layer, mtime=0) if compress else layer for layer in layers]
    config = config_of(*layers)
    kind = "application/vnd.oci.image."
    manifest = {
        "schemaVersion": 2,
        "mediaType": kind + "manifest.v1+json",
        "config": _pointer(kind + "config.v1+json", config),
        "layers": [
            _pointer(kind + "layer.v1.tar" + "+gzip" * compress, blob) for blob in blobs
        ],
    }
    return json.dumps(manifest).encode(), {sha(blob): blob for blob in (config, *blobs)}


def oci_archive(
    manifest: bytes, blobs: Mapping[str, bytes], annotations: Mapping[str, str]
) -> bytes:
    pointer = _pointer("application/vnd.oci.image.manifest.v1+json", manifest)
    index = {"schemaVersion": 2, "manifests": [{**pointer, "annotations": dict(annotations)}]}
    every = {**blobs, sha(manifest): manifest}
    return tar(
        entry("oci-layout", b'{"imageLayoutVersion":"1.0.0"}'),
        entry("index.json", json.dumps(index).encode()),
        *(entry("blobs/" + key.replace(":", "/"), blob) for key, blob in every.items()),
    )


def _pointer(kind: str, content: bytes) -> dict[str, Any]:
    return {"mediaType": kind, "digest": sha(content), "size": len(content)}


async def pieces(content: bytes, size: int = 100_000) -> AsyncIterator[bytes]:
    for start in range(0, len(content), size):
        yield content[start : start + size]
