"""Registry credentials of a service, sealed in its object.

A service has one set, the last that was given, whichever spec is in force. The text is the
base64url JSON that clients send in `X-Registry-Auth`; it is never shown again. What agents are
told opens it with `registry_auth_of`.
"""

import base64
import binascii

import msgspec

from manager.store.sealing import Sealer
from shoal.model.errors import InvalidArgument
from shoal.model.ids import ServiceID
from shoal.model.objects import Service


def _name(service: ServiceID) -> str:
    return f"registry/{service}"


def seal_registry_auth(sealer: Sealer, service: ServiceID, text: str) -> bytes:
    """For `Service.registry_auth`; empty where there are none."""
    return sealer.seal(text.encode(), _name(service)) if text else b""


def registry_auth_of(sealer: Sealer, service: Service) -> str:
    """The credentials to pull the service's image with; empty if none were given."""
    if not service.registry_auth:
        return ""
    return sealer.open(service.registry_auth, _name(service.id)).decode()


def read_header(text: str) -> str:
    """The header's text if it holds anything; `{}` (a client that is logged out) is nothing."""
    if not text:
        return ""
    try:
        decoded = msgspec.json.decode(base64.urlsafe_b64decode(text + "=" * (-len(text) % 4)))
    except (binascii.Error, ValueError, msgspec.DecodeError) as error:
        raise InvalidArgument(
            f"invalid X-Registry-Auth header: {error}", field="X-Registry-Auth"
        ) from error
    if not isinstance(decoded, dict):
        raise InvalidArgument(
            "invalid X-Registry-Auth header: not a JSON object", field="X-Registry-Auth"
        )
    return text if decoded else ""
