"""The three files a container gets of its own: hosts, hostname, resolv.conf. Pure."""

from collections.abc import Iterable

from agent.network.dns import RESOLVER
from shoal.model.container import HostConfig
from shoal.model.validate.settings import GATEWAY

_LOCALHOST = """127.0.0.1\tlocalhost
::1\tlocalhost ip6-localhost ip6-loopback
fe00::\tip6-localnet
ff00::\tip6-mcastprefix
ff02::1\tip6-allnodes
ff02::2\tip6-allrouters
"""


def hosts(
    name: str, domain: str, addresses: Iterable[str], gateway: str, extra: Iterable[str]
) -> str:
    """/etc/hosts: the usual names, `--add-host` entries, the container itself.

    `addresses` are its own, of all its networks and of both families.
    """
    lines = _LOCALHOST
    for entry in extra:
        host, target = extra_host(entry)
        lines += f"{gateway if target == GATEWAY else target}\t{host}\n"
    full = f"{name}.{domain} {name}" if domain else name
    return lines + "".join(f"{address}\t{full}\n" for address in addresses)


def resolv_conf(inherited: str, host: HostConfig, *, own_network: bool) -> str:
    """/etc/resolv.conf: the host's, with what the user asks for in place of it.

    In a network of its own a container cannot reach name servers on the host's loopback.
    """
    servers, search, options = _parse(inherited)
    if own_network:
        servers = [s for s in servers if not s.startswith("127.") and s != "::1"]
    return _resolv_conf(
        list(host.dns) or servers,
        list(host.dns_search) or search,
        list(host.dns_options) or options,
    )


def resolv_conf_with_names(inherited: str, host: HostConfig) -> str:
    """/etc/resolv.conf on a network with names: the agent's own server answers there.

    It asks the servers that the user gave, or the host's, itself. `ndots:0` unless the user
    says otherwise: a name is first asked for as it is.
    """
    _, search, options = _parse(inherited)
    options = list(host.dns_options) or [o for o in options if not o.startswith("ndots:")]
    if not any(option.startswith("ndots:") for option in options):
        options.append("ndots:0")
    return _resolv_conf([RESOLVER], list(host.dns_search) or search, options)


def _parse(text: str) -> tuple[list[str], list[str], list[str]]:
    """Name servers, search domains, options."""
    servers, search, options = [], [], []
    for line in text.splitlines():
        key, _, rest = line.strip().partition(" ")
        if key == "nameserver":
            servers.append(rest.strip())
        elif key in ("search", "domain"):
            search = rest.split()
        elif key == "options":
            options = rest.split()
    return servers, search, options


def _resolv_conf(servers: Iterable[str], search: list[str], options: list[str]) -> str:
    lines = [f"nameserver {server}" for server in servers]
    if search and search != ["."]:
        lines.append("search " + " ".join(search))
    if options:
        lines.append("options " + " ".join(options))
    return "\n".join([*lines, ""])


def extra_host(entry: str) -> tuple[str, str]:
    """Name and address of `--add-host`: `name:address` or `name=[address]`."""
    name, _, address = entry.partition("=" if "=" in entry else ":")
    return name, address.removeprefix("[").removesuffix("]")
