"""What a host is told when it starts: paths, addresses, ports; one value for all its programs.

The supervisor builds it (file first, flags win) and hands it to agent and manager, as the value
itself to those it forks and as JSON (`encode_config`) to whoever is started apart. It holds
nothing secret and nothing that the cluster decides: those are in the identity and the store.
"""

import hashlib
import re
import socket
import tomllib
from collections.abc import Mapping, Sequence
from pathlib import Path

import msgspec

from shoal.model.errors import InvalidArgument
from shoal.model.resources import generic_of

DEFAULT_FILE = Path("/etc/shoal/host.toml")

_PREFIX = re.compile(r"[a-z][a-z0-9]{0,7}")
_LINK_PREFIX = 6
_PORTS = ("port", "join_port", "etcd_port", "agent_port", "vxlan_port")


class HostConfig(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Settings of one host; keys of `host.toml` and flags of `shoal host` have these names.

    Attributes:
        state: what must survive a restart: identity, roles, etcd, images, tasks.
        run: sockets, pids and mounts; empty after a reboot.
        address: where the other hosts reach this one, an IP address.
        address_guessed: nobody gave it; what enters a cluster asks for one where it is unsure.
        hostname: the node's name in `docker node ls`.
        instance: prefix of every kernel object's name, so that several hosts share a machine.
        data_path_address: where VXLAN traffic goes; empty means `address`.
        listen_address: where managers are served; empty is on all addresses.
        etcd: the etcd program, found on PATH or given whole.
        labels: `name=value` each, what constraints know as `engine.labels.NAME`.
        generic_resources: what the host has to reserve, `KIND=NAME` each for named ones, or
            `KIND=COUNT`.
    """

    state: str = "/var/lib/shoal"
    run: str = "/run/shoal"
    address: str = ""
    address_guessed: bool = False
    hostname: str = ""
    instance: str = "shoal"
    data_path_address: str = ""
    listen_address: str = ""
    port: int = 2377
    join_port: int = 2378
    etcd_port: int = 2384
    agent_port: int = 7946
    vxlan_port: int = 4789
    etcd: str = "etcd"
    labels: tuple[str, ...] = ()
    generic_resources: tuple[str, ...] = ()

    @property
    def manager_address(self) -> str:
        """Where others find this host's manager while it is one: host:port of its gRPC."""
        return f"{self.address}:{self.port}"

    @property
    def manager_secrets(self) -> Path:
        """What a host has only while it is a manager: etcd's certificate, the data key."""
        return Path(self.state) / "manager"

    @property
    def link_prefix(self) -> str:
        """What begins the names of the host's network links; those have 15 bytes at most."""
        if len(self.instance) <= _LINK_PREFIX:
            return self.instance
        return self.instance[:3] + hashlib.sha256(self.instance.encode()).hexdigest()[:3]

    @property
    def data_path(self) -> str:
        """The address VXLAN uses."""
        return self.data_path_address or self.address


def encode_config(config: HostConfig) -> str:
    """The JSON form, for a program that is not forked from the host."""
    return msgspec.json.encode(config).decode()


def decode_config(text: str) -> HostConfig:
    """What `encode_config` wrote."""
    return msgspec.json.decode(text, type=HostConfig)


def load_config(file: Path | None, flags: Mapping[str, object]) -> HostConfig:
    """Defaults, then the file, then the flags given; the result is complete and checked.

    A file that was named must exist; the default one (`file` is None) may be absent.
    """
    settings: dict[str, object] = dict(_read(file))
    settings.update({key: value for key, value in flags.items() if value is not None})
    try:
        config = msgspec.convert(settings, HostConfig)
    except msgspec.ValidationError as error:
        raise InvalidArgument(f"host configuration: {error}") from error
    return _checked(_completed(config))


def _read(file: Path | None) -> Mapping[str, object]:
    path = file or DEFAULT_FILE
    try:
        return tomllib.loads(path.read_text())
    except FileNotFoundError as error:
        if file is None:
            return {}
        raise InvalidArgument(f"configuration file {path} does not exist") from error
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise InvalidArgument(f"configuration file {path} cannot be read: {error}") from error


def _completed(config: HostConfig) -> HostConfig:
    return msgspec.structs.replace(
        config,
        state=str(Path(config.state).absolute()),
        run=str(Path(config.run).absolute()),
        address=config.address or _outgoing_address(),
        address_guessed=not config.address,
        hostname=config.hostname or socket.gethostname(),
    )


def _outgoing_address() -> str:
    """The address the kernel would use towards the world; no packet is sent.

    A host without a way out has the loopback until it is told, at init or join.
    """
    for family, probe in ((socket.AF_INET, "192.0.2.1"), (socket.AF_INET6, "2001:db8::1")):
        with socket.socket(family, socket.SOCK_DGRAM) as udp:
            try:
                udp.connect((probe, 9))
            except OSError:
                continue
            return str(udp.getsockname()[0])
    return "127.0.0.1"


def _checked(config: HostConfig) -> HostConfig:
    listening = ("listen_address",) if config.listen_address else ()
    for field in ("address", "data_path", *listening):
        if not _is_address(getattr(config, field)):
            raise InvalidArgument(
                f"{field} {getattr(config, field)!r} is not an IP address", field=field
            )
    if not _PREFIX.fullmatch(config.instance):
        raise InvalidArgument(
            f"instance {config.instance!r} must be 1 to 8 of a-z and 0-9, a letter first",
            field="instance",
        )
    label_map(config.labels)
    generic_of(config.generic_resources)
    ports = {name: getattr(config, name) for name in _PORTS}
    for name, number in ports.items():
        if not 0 < number < 65536:
            raise InvalidArgument(f"{name} {number} is not a port from 1 to 65535", field=name)
    tcp = {name: number for name, number in ports.items() if name != "vxlan_port"}
    if len(set(tcp.values())) < len(tcp):
        raise InvalidArgument(f"two services share one port: {tcp}", field="port")
    return config


def label_map(labels: Sequence[str]) -> Mapping[str, str]:
    """The host's labels by name; InvalidArgument for one that is not `name=value`."""
    found: dict[str, str] = {}
    for label in labels:
        name, equals, value = label.partition("=")
        if not name.strip() or not equals:
            raise InvalidArgument(f"labels: {label!r} is not name=value", field="labels")
        found[name] = value
    return found


def _is_address(text: str) -> bool:
    for family in (socket.AF_INET, socket.AF_INET6):
        try:
            socket.inet_pton(family, text)
        except OSError:
            continue
        return True
    return False
