"""Image names as Docker means them: `busybox` is `docker.io/library/busybox:latest`.

Pure. The grammar and the sentences are those of the distribution project's reference package,
because users and tools compare them. Called wherever an image name enters: REST handlers, spec
validation, the agent's image store. Whether such an image exists is not asked here.
"""

import re

import msgspec

from shoal.model.errors import InvalidArgument

DEFAULT_DOMAIN = "docker.io"
DEFAULT_TAG = "latest"
_LEGACY_DOMAIN = "index.docker.io"
_OFFICIAL = "library/"
_NAME_LIMIT = 255

_LABEL = r"(?:[a-zA-Z0-9]|[a-zA-Z0-9][a-zA-Z0-9-]*[a-zA-Z0-9])"
_DOMAIN = rf"(?:{_LABEL}(?:\.{_LABEL})*|\[(?:[a-fA-F0-9:]+)\])(?::[0-9]+)?"
_COMPONENT = r"[a-z0-9]+(?:(?:\.|_|__|-+)[a-z0-9]+)*"
_DIGEST = r"[A-Za-z][A-Za-z0-9]*(?:[-_+.][A-Za-z][A-Za-z0-9]*)*:[0-9a-fA-F]{32,}"
_REFERENCE = re.compile(
    rf"(?P<domain>{_DOMAIN})/(?P<path>{_COMPONENT}(?:/{_COMPONENT})*)"
    rf"(?::(?P<tag>\w[\w.-]{{0,127}}))?(?:@(?P<digest>{_DIGEST}))?",
    re.ASCII,
)
_IDENTIFIER = re.compile(r"[a-f0-9]{64}")
_DIGEST_LENGTHS = {"sha256": 64, "sha384": 96, "sha512": 128}


class Reference(msgspec.Struct, frozen=True, kw_only=True):
    """A parsed name. At least one of domain and path says where, tag and digest say which."""

    domain: str
    path: str
    tag: str | None = None
    digest: str | None = None

    @property
    def name(self) -> str:
        """The full repository name, e.g. `docker.io/library/busybox`."""
        return f"{self.domain}/{self.path}"

    @property
    def familiar_name(self) -> str:
        """The repository name as a user writes it, e.g. `busybox`."""
        if self.domain != DEFAULT_DOMAIN:
            return self.name
        short = self.path.removeprefix(_OFFICIAL)
        if "/" not in short:
            return short
        return self.name if _looks_like_domain(self.path.partition("/")[0]) else self.path

    @property
    def full(self) -> str:
        """The unambiguous form, for tools and stored objects."""
        return self.name + self._suffix()

    @property
    def familiar(self) -> str:
        """The shortest form that parses to the same reference, for people."""
        return self.familiar_name + self._suffix()

    def tagged(self) -> "Reference":
        """The same with tag `latest` where neither tag nor digest was given."""
        if self.tag is not None or self.digest is not None:
            return self
        return msgspec.structs.replace(self, tag=DEFAULT_TAG)

    def _suffix(self) -> str:
        tag = f":{self.tag}" if self.tag is not None else ""
        return tag + (f"@{self.digest}" if self.digest is not None else "")


def parse_reference(text: str) -> Reference:
    """Read a name in any form a user may write it. No tag is added, see `Reference.tagged`.

    >>> parse_reference("busybox").full
    'docker.io/library/busybox'
    """
    if _IDENTIFIER.fullmatch(text):
        raise InvalidArgument(
            f"invalid repository name ({text}), cannot specify 64-byte hexadecimal strings"
        )
    domain, remainder = _split_domain(text)
    repository = remainder.partition(":")[0]
    if repository.lower() != repository:
        raise InvalidArgument(
            f"invalid reference format: repository name ({repository}) must be lowercase"
        )
    match = _REFERENCE.fullmatch(f"{domain}/{remainder}")
    if match is None:
        raise InvalidArgument("invalid reference format")
    found = Reference(
        domain=match["domain"], path=match["path"], tag=match["tag"], digest=match["digest"]
    )
    if len(found.name) > _NAME_LIMIT:
        raise InvalidArgument(f"repository name must not be more than {_NAME_LIMIT} characters")
    if found.digest is not None:
        check_digest(found.digest)
    return found


def check_digest(digest: str) -> None:
    """Refuse what is not `<algorithm>:<lower-case hex of its length>`."""
    algorithm, _, value = digest.partition(":")
    length = _DIGEST_LENGTHS.get(algorithm)
    if length is None:
        raise InvalidArgument(f"unsupported digest algorithm: {digest}")
    if len(value) != length:
        raise InvalidArgument(f"invalid checksum digest length: {digest}")
    if not re.fullmatch(r"[a-f0-9]+", value):
        raise InvalidArgument(f"invalid checksum digest format: {digest}")


def _split_domain(text: str) -> tuple[str, str]:
    first, slash, rest = text.partition("/")
    explicit = bool(slash) and _looks_like_domain(first)
    domain, remainder = (first, rest) if explicit else (DEFAULT_DOMAIN, text)
    if domain == _LEGACY_DOMAIN:
        domain = DEFAULT_DOMAIN
    if domain == DEFAULT_DOMAIN and "/" not in remainder:
        remainder = _OFFICIAL + remainder
    return domain, remainder


def _looks_like_domain(first: str) -> bool:
    """Whether a first component is a host: a dot, a port, localhost, or capitals say so."""
    return "." in first or ":" in first or first == "localhost" or first.lower() != first
