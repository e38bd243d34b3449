"""How a host becomes a node: fetch the root, check it against the token, ask for a certificate.

The first connection is not verified, and nothing but the root is taken from it. That root
must have the token's digest; the second connection, the only one that carries the token, must
prove that root and be a manager's. The agent calls `join`; retrying is the caller's.
"""

import asyncio
import ssl
from typing import TypeVar

import aiohttp
import msgspec
from cryptography import x509
from msgspec import Struct

from shoal.common.certificates import (
    Role,
    load_chain,
    new_csr_pem,
    role_name,
    to_pem,
)
from shoal.common.identity import Identity, identity_of
from shoal.common.join_token import JoinToken, parse_token, root_digest
from shoal.common.join_wire import (
    CERTIFICATES_PATH,
    MAX_ANSWER_BYTES,
    ROOTS_PATH,
    CertificateAnswer,
    CertificateRequest,
    Roots,
    error_of,
    joining_address,
)
from shoal.common.tls import anonymous_client_context
from shoal.model.errors import Internal, InvalidArgument, Unauthenticated, Unavailable

CALL_SECONDS = 10.0
CONNECT_SECONDS = 5.0

Answer = TypeVar("Answer")


class Newcomer(Struct, frozen=True, kw_only=True):
    """What a host says of itself when it joins; no address: the one the manager sees."""

    hostname: str
    address: str = ""
    availability: str = "active"


class Joined(Struct, frozen=True, kw_only=True):
    """A new member: its identity (not saved yet) and where the managers are."""

    identity: Identity
    managers: tuple[str, ...]


async def join(manager: str, token: str, newcomer: Newcomer, key_pem: bytes) -> Joined:
    """Become a node through the manager at `manager` (`host[:port]`, its gRPC address).

    Keep the key between attempts (`certificates.new_key_pem`): by it the manager knows a
    request again whose answer was lost, and makes no second node. InvalidArgument for a
    malformed token, Unauthenticated for a wrong digest or token, Unavailable and
    ResourceExhausted if worth a retry, other refusals as the manager words them.
    """
    parsed = parse_token(token)
    root = await fetch_root(manager, parsed)
    return await request_certificate(manager, root, parsed, newcomer, key_pem)


async def fetch_root(manager: str, token: JoinToken) -> x509.Certificate:
    """The root certificate that the token vouches for; Unauthenticated if it is another."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    answer = await _call(manager, "GET", ROOTS_PATH, b"", context, Roots)
    try:
        roots = load_chain(answer.roots.encode(), what="manager's root certificate")
    except InvalidArgument as error:
        raise Internal(str(error)) from error
    for root in roots:
        if root_digest(root) == token.digest:
            return root
    raise Unauthenticated(
        f"remote CA does not match fingerprint. Expected: {token.digest}, "
        f"got {root_digest(roots[0])}"
    )


async def request_certificate(
    manager: str,
    root: x509.Certificate,
    token: JoinToken,
    newcomer: Newcomer,
    key_pem: bytes,
) -> Joined:
    """Send a request and the token to a manager that proves the root; an identity back."""
    body = CertificateRequest(
        csr=new_csr_pem(key_pem).decode(),
        token=str(token),
        hostname=newcomer.hostname,
        address=newcomer.address,
        availability=newcomer.availability,
    )
    answer = await _call(
        manager,
        "POST",
        CERTIFICATES_PATH,
        msgspec.json.encode(body),
        anonymous_client_context(to_pem([root])),
        CertificateAnswer,
    )
    identity = identity_of(
        key_pem=key_pem,
        certificate_pem=answer.certificate.encode(),
        roots_pem=answer.roots.encode(),
    )
    return Joined(identity=identity, managers=answer.managers)


async def _call(
    manager: str,
    method: str,
    path: str,
    body: bytes,
    context: ssl.SSLContext,
    kind: type[Answer],
) -> Answer:
    host, port = joining_address(manager)
    authority = f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
    try:
        status, content = await _exchange(method, f"https://{authority}{path}", body, context)
    except aiohttp.ClientConnectorCertificateError as error:
        raise Unauthenticated(_unproven(authority, error.certificate_error)) from error
    except aiohttp.ClientSSLError as error:
        raise Unavailable(
            f"no TLS with the manager at {authority}: {error}; "
            "it must be the port after the manager's own (2378 for 2377)"
        ) from error
    except TimeoutError as error:
        raise Unavailable(
            f"Timeout was reached before node joined: no answer from {authority}"
        ) from error
    except (aiohttp.ClientError, OSError) as error:
        raise Unavailable(f"cannot reach the manager at {authority}: {error}") from error
    if status != 200:
        raise error_of(status, content)
    try:
        return msgspec.json.decode(content, type=kind)
    except msgspec.MsgspecError as error:
        raise Internal(f"the manager at {authority} answered in an unknown form") from error


async def _exchange(
    method: str, url: str, body: bytes, context: ssl.SSLContext
) -> tuple[int, bytes]:
    async with (
        asyncio.timeout(CALL_SECONDS),
        aiohttp.ClientSession(
            timeout=aiohttp.ClientTimeout(total=None, sock_connect=CONNECT_SECONDS)
        ) as session,
        session.request(
            method,
            url,
            data=body or None,
            ssl=context,
            server_hostname=role_name(Role.MANAGER),
            allow_redirects=False,
        ) as response,
    ):
        content = b""
        while chunk := await response.content.read(MAX_ANSWER_BYTES - len(content)):
            content += chunk
            if len(content) >= MAX_ANSWER_BYTES:
                raise aiohttp.ClientPayloadError("the answer is too long")
        return response.status, content


def _unproven(authority: str, error: Exception) -> str:
    reason = error.verify_message if isinstance(error, ssl.SSLCertVerificationError) else error
    return (
        f"the manager at {authority} cannot prove to be one of the cluster's: {reason}. "
        "Check both hosts' clocks, and that nobody else holds that address"
    )
