"""Registries, through skopeo: tokens, TLS, mirrors and protocols are its business.

Runs skopeo with a policy, a registries.conf and credentials of this store's own making, never
those of the host's users, and turns what it says into the Docker Engine's sentences. Which
manifest to take and what to keep is `agent.images.store`'s decision.
"""

import asyncio
import base64
import contextlib
import os
import re
import tempfile
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from ipaddress import ip_address
from pathlib import Path

import msgspec

from agent.images.blobs import write_synced
from agent.images.image import RegistryAuth
from agent.images.layers import remove_tree
from shoal.model.errors import (
    ClusterError,
    Internal,
    NotFound,
    ResourceExhausted,
    Unauthenticated,
    Unavailable,
)
from shoal.model.reference import Reference

_PASSED_ON = (
    *("PATH", "HTTP_PROXY", "HTTPS_PROXY", "NO_PROXY", "http_proxy", "https_proxy"),
    *("no_proxy", "SSL_CERT_FILE", "SSL_CERT_DIR"),
)
_POLICY = b'{"default":[{"type":"insecureAcceptAnything"}]}\n'
_REGISTRIES = b'unqualified-search-registries = ["docker.io"]\nshort-name-mode = "disabled"\n'
_FATAL = re.compile(r'level=fatal msg=("(?:[^"\\]|\\.)*")')
_ASK_SECONDS = 30.0

_DENIED = ("unauthorized", "denied", "authentication required", "name unknown", "403")
_UNKNOWN = ("manifest unknown", "not found", "404")
_UNREACHABLE = (
    *("dial tcp", "no such host", "connection refused", "no route to host", "i/o timeout"),
    *("network is unreachable", "x509:", "tls:", "EOF", "connection reset", "pinging"),
    *("server gave HTTP response to HTTPS client", "TLS handshake", "deadline exceeded"),
)


class Skopeo:
    """One store's way to registries. `insecure` ones may speak plain HTTP, as loopback may."""

    def __init__(self, directory: Path, tmp: Path, insecure: tuple[str, ...] = ()) -> None:
        self._directory = directory
        self._tmp = tmp
        self._insecure = insecure

    def prepare(self) -> None:
        """Write the configuration that skopeo is to see in place of the host's."""
        (self._directory / "registries.d").mkdir(parents=True, exist_ok=True, mode=0o700)
        write_synced(self._directory / "policy.json", _POLICY)
        write_synced(self._directory / "registries.conf", _REGISTRIES)

    async def raw_manifest(self, reference: Reference, auth: RegistryAuth | None) -> bytes:
        """The bytes that the registry has under the name: a manifest or an index."""
        try:
            async with asyncio.timeout(_ASK_SECONDS):
                return await self._run(reference, auth, "inspect", "--raw")
        except TimeoutError as error:
            raise _unreachable(reference, "it does not answer") from error

    async def raw_config(self, reference: Reference, auth: RegistryAuth | None) -> bytes:
        """The configuration of the image, for names that stand for one manifest."""
        try:
            async with asyncio.timeout(_ASK_SECONDS):
                return await self._run(reference, auth, "inspect", "--config", "--raw")
        except TimeoutError as error:
            raise _unreachable(reference, "it does not answer") from error

    async def fetch(
        self, reference: Reference, auth: RegistryAuth | None, directory: Path
    ) -> None:
        """All blobs of the manifest with this digest, into `<hex>` files of a directory."""
        target = f"dir:{directory}"
        await self._run(reference, auth, "copy", "--quiet", after=(target,))

    async def _run(
        self,
        reference: Reference,
        auth: RegistryAuth | None,
        *command: str,
        after: tuple[str, ...] = (),
    ) -> bytes:
        async with self._workplace(reference, auth) as work:
            verify = "--src-tls-verify" if command[0] == "copy" else "--tls-verify"
            child = await asyncio.create_subprocess_exec(
                *("skopeo", "--policy", str(self._directory / "policy.json")),
                *("--registries.d", str(self._directory / "registries.d")),
                *command,
                *("--authfile", str(work / "auth.json")),
                *((f"{verify}=false",) if self._is_insecure(reference.domain) else ()),
                f"docker://{_source(reference)}",
                *after,
                stdin=asyncio.subprocess.DEVNULL,
                stdout=asyncio.subprocess.PIPE,
                stderr=asyncio.subprocess.PIPE,
                env=self._environment(work),
                start_new_session=True,
            )
            try:
                stdout, stderr = await child.communicate()
            finally:
                if child.returncode is None:
                    with contextlib.suppress(ProcessLookupError):
                        child.kill()
                    await child.wait()
        if child.returncode != 0:
            raise explain(reference, stderr.decode(errors="replace"), given=auth is not None)
        return stdout

    @asynccontextmanager
    async def _workplace(
        self, reference: Reference, auth: RegistryAuth | None
    ) -> AsyncIterator[Path]:
        """A directory for one run, with the credentials in it; gone afterwards in any case."""
        work = Path(await asyncio.to_thread(tempfile.mkdtemp, dir=self._tmp))
        try:
            content = auth_document(reference.domain, auth)
            await asyncio.to_thread(write_synced, work / "auth.json", content)
            yield work
        finally:
            await asyncio.to_thread(remove_tree, work)

    def _environment(self, work: Path) -> dict[str, str]:
        passed = {key: os.environ[key] for key in _PASSED_ON if key in os.environ}
        own = dict.fromkeys(("HOME", "TMPDIR", "XDG_RUNTIME_DIR"), str(work))
        conf = str(self._directory / "registries.conf")
        return {**passed, **own, "CONTAINERS_REGISTRIES_CONF": conf}

    def _is_insecure(self, domain: str) -> bool:
        return domain in self._insecure or is_loopback(domain)


def auth_document(domain: str, auth: RegistryAuth | None) -> bytes:
    """The credentials file; empty without credentials, so that nobody else's are found."""
    auths = {}
    if auth is not None:
        pair = f"{auth.username}:{auth.password}".encode()
        entry = {"auth": base64.b64encode(pair).decode()}
        if auth.identity_token:
            entry["identitytoken"] = auth.identity_token
        auths[domain] = entry
    return msgspec.json.encode({"auths": auths})


def is_loopback(domain: str) -> bool:
    """Whether Docker allows plain HTTP to this registry without being told."""
    host = domain.rpartition(":")[0] if re.search(r":\d+$", domain) else domain
    host = host.strip("[]")
    if host == "localhost":
        return True
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return False


def explain(reference: Reference, stderr: str, *, given: bool) -> ClusterError:
    """The error class and the Docker Engine's sentence for what skopeo complained about.

    `given`: credentials were sent, so being turned away means that they are wrong.
    """
    matches = _FATAL.findall(stderr)
    text = _unquote(matches[-1]) if matches else stderr.strip()
    if "invalid username/password" in text and given:
        return Unauthenticated("unauthorized: incorrect username or password")
    if "toomanyrequests" in text.replace(" ", "").lower():
        return ResourceExhausted(f"registry {reference.domain} limits requests: {text}")
    if "no image found" in text or "manifest unknown" in text:
        return _no_manifest(reference)
    if any(sign in text for sign in _UNREACHABLE) and "status code" not in text:
        return _unreachable(reference, text.partition(": ")[2] or text)
    if any(sign in text for sign in _DENIED):
        return NotFound(
            f"pull access denied for {reference.familiar_name}, repository does not exist or "
            "may require 'docker login': denied: requested access to the resource is denied"
        )
    if any(sign in text for sign in _UNKNOWN):
        return _no_manifest(reference)
    return Internal(f"{reference.familiar} could not be pulled: {text}")


def _no_manifest(reference: Reference) -> NotFound:
    return NotFound(
        f"manifest for {reference.familiar} not found: manifest unknown: manifest unknown"
    )


def _unreachable(reference: Reference, reason: str) -> Unavailable:
    return Unavailable(f"registry {reference.domain} cannot be reached: {reason}")


def _source(reference: Reference) -> str:
    """Skopeo refuses a tag beside a digest, where Docker lets the digest win."""
    if reference.digest is not None:
        return f"{reference.name}@{reference.digest}"
    return reference.full


def _unquote(text: str) -> str:
    try:
        return msgspec.json.decode(text.encode(), type=str)
    except msgspec.MsgspecError:
        return text.strip('"')
