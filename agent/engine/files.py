"""The three files a container gets of its own: hosts, hostname, resolv.conf. Pure."""

from collections.abc import Iterable

from shoal.model.container import HostConfig
from shoal.model.errors import InvalidArgument

_LOCALHOST = """127.0.0.1\tlocalhost
::1\tlocalhost ip6-localhost ip6-loopback
fe00::\tip6-localnet
ff00::\tip6-mcastprefix
ff02::1\tip6-allnodes
ff02::2\tip6-allrouters
"""


def hosts(name: str, domain: str, address: str, gateway: str, extra: Iterable[str]) -> str:
    """/etc/hosts: the usual names, `--add-host` entries, the container itself."""
    lines = _LOCALHOST
    for entry in extra:
        host, _, target = entry.partition("=" if "=" in entry else ":")
        lines += f"{gateway if target == 'host-gateway' else target.strip('[]')}\t{host}\n"
    if address:
        full = f"{name}.{domain} {name}" if domain else name
        lines += f"{address}\t{full}\n"
    return lines


def resolv_conf(inherited: str, host: HostConfig, *, own_network: bool) -> str:
    """/etc/resolv.conf: the host's, with what the user asks for in place of it.

    In a network of its own a container cannot reach name servers on the host's loopback.
    """
    servers, search, options = [], [], []
    for line in inherited.splitlines():
        key, _, rest = line.strip().partition(" ")
        if key == "nameserver":
            servers.append(rest.strip())
        elif key in ("search", "domain"):
            search = rest.split()
        elif key == "options":
            options = rest.split()
    if own_network:
        servers = [s for s in servers if not s.startswith("127.") and s != "::1"]
    servers = list(host.dns) or servers
    search = list(host.dns_search) or search
    options = list(host.dns_options) or options
    lines = [f"nameserver {server}" for server in servers]
    if search and search != ["."]:
        lines.append("search " + " ".join(search))
    if options:
        lines.append("options " + " ".join(options))
    return "\n".join([*lines, ""])


def check_hosts(extra: Iterable[str]) -> None:
    """Refuse an `--add-host` without a host or an address."""
    for entry in extra:
        host, _, target = entry.partition("=" if "=" in entry else ":")
        if not host or not target:
            raise InvalidArgument(
                f'bad format for add-host: "{entry}"', field="HostConfig.ExtraHosts"
            )
