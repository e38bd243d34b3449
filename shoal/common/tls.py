"""TLS out of an identity, and a peer's identity out of TLS.

Every connection but a joiner's is mutual. Servers take the certificate in use at each
handshake (`CurrentIdentity`), so a renewed one needs no restart; clients are built from one
`Identity` and dial again when it changes. What a peer may do is decided by `rpc` and by the
agents' and managers' listeners.
"""

import asyncio
import os
import ssl
from collections.abc import Iterable, Mapping
from typing import Protocol

import grpc

from shoal.common.certificates import Peer, peer_of_der, peer_of_pem
from shoal.common.identity import CurrentIdentity, Identity
from shoal.model.errors import Internal, Unauthenticated


class Call(Protocol):
    """The one thing read of gRPC's ServicerContext."""

    def auth_context(self) -> Mapping[str, Iterable[bytes]]: ...


def grpc_server_credentials(current: CurrentIdentity) -> grpc.ServerCredentials:
    """Credentials that demand a client certificate and follow renewals and root changes."""
    identity = current.get()
    given = identity

    def latest() -> grpc.ServerCertificateConfiguration | None:
        """Called by gRPC on a thread of its own before each handshake; None: no change."""
        nonlocal given
        newest = current.get()
        if newest is given:
            return None
        given = newest
        return _configuration(newest)

    return grpc.dynamic_ssl_server_credentials(
        _configuration(identity),
        latest,  # type: ignore[arg-type]  # None is allowed, says gRPC's documentation
        require_client_authentication=True,
    )


def _configuration(identity: Identity) -> grpc.ServerCertificateConfiguration:
    pair = (identity.key_pem, identity.certificate_pem)
    return grpc.ssl_server_certificate_configuration([pair], identity.roots_pem)


def grpc_channel_credentials(identity: Identity) -> grpc.ChannelCredentials:
    """Credentials of a client; the server's name is checked by the channel (`rpc.channel`)."""
    return grpc.ssl_channel_credentials(
        root_certificates=identity.roots_pem,
        private_key=identity.key_pem,
        certificate_chain=identity.certificate_pem,
    )


def server_context(current: CurrentIdentity) -> ssl.SSLContext:
    """For HTTPS listeners that demand a client certificate (the agents' Engine API)."""
    return _following(current, ssl.CERT_REQUIRED)


def joining_context(current: CurrentIdentity) -> ssl.SSLContext:
    """For the joining listener: its callers have no certificate yet."""
    return _following(current, ssl.CERT_NONE)


def client_context(identity: Identity) -> ssl.SSLContext:
    """For HTTPS clients with this node's certificate.

    Give `server_hostname` at the call: a node id, or `certificates.cluster_role_name`.
    """
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.load_verify_locations(cadata=identity.roots_pem.decode())
    _load_pair(context, identity)
    return context


def anonymous_client_context(roots_pem: bytes) -> ssl.SSLContext:
    """For a joiner that has checked the root against its token and has no certificate."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.load_verify_locations(cadata=roots_pem.decode())
    return context


def peer_of_call(context: Call) -> Peer:
    """Who makes this gRPC call; Unauthenticated if no node's certificate came with it."""
    certificates = list(context.auth_context().get("x509_pem_cert", ()))
    if not certificates:
        raise Unauthenticated("the call came without a client certificate")
    return peer_of_pem(certificates[0])


def peer_of_transport(transport: asyncio.BaseTransport | None) -> Peer:
    """Who is at the other end of an aiohttp request's transport."""
    connection = transport.get_extra_info("ssl_object") if transport is not None else None
    der = connection.getpeercert(binary_form=True) if connection is not None else None
    if not der:
        raise Unauthenticated("the request came without a client certificate")
    return peer_of_der(der)


def _following(current: CurrentIdentity, mode: ssl.VerifyMode) -> ssl.SSLContext:
    """A context that hands each handshake over to one made of the identity in use.

    OpenSSL calls the server name hook for every hello, named or not, and takes certificate
    and trusted roots from the context set there.
    """
    identity = current.get()
    made = (identity, _server_context_of(identity, mode))

    def choose(
        connection: ssl.SSLObject | ssl.SSLSocket, _name: str, _context: ssl.SSLContext
    ) -> None:
        nonlocal made
        newest = current.get()
        if newest is not made[0]:
            made = (newest, _server_context_of(newest, mode))
        connection.context = made[1]

    outer = _server_context_of(identity, mode)
    outer.sni_callback = choose
    return outer


def _server_context_of(identity: Identity, mode: ssl.VerifyMode) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.verify_mode = mode
    context.num_tickets = 0  # a resumed session would skip the check of the certificate
    context.options |= ssl.OP_NO_TICKET
    context.load_verify_locations(cadata=identity.roots_pem.decode())
    _load_pair(context, identity)
    return context


def _load_pair(context: ssl.SSLContext, identity: Identity) -> None:
    """Python loads keys from files only; this file is memory and has no name."""
    descriptor = os.memfd_create("node-identity")
    try:
        os.write(descriptor, identity.key_pem + b"\n" + identity.certificate_pem)
        context.load_cert_chain(f"/proc/self/fd/{descriptor}")
    except OSError as error:  # ssl.SSLError is one
        raise Internal(f"the certificate of {identity!r} cannot be used: {error}") from error
    finally:
        os.close(descriptor)
