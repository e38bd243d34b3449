"""The instance's one nftables table as text: isolation, published ports, the ingress mesh.

Pure. A ruleset is a fixed part (base chains, which never go away while the instance lives), one
chain per published port, and the elements of the maps that lead to them. Two ways bring it into
the kernel, each one transaction: `replacement` whatever is there, `difference` from a known
ruleset. Neither ever deletes the table or a base chain: deleting those makes established
connections hang, and the `ct` rules of the fixed part keep connection tracking alive when the
last port goes. `nft` applies the text.
"""

from collections.abc import Iterable, Mapping, Sequence
from ipaddress import IPv4Address, IPv4Network

import msgspec

from agent.network.desired import ANY_ADDRESS, Endpoint, IngressPort, Mesh, PortBinding
from agent.network.local import LocalNetwork
from agent.network.plan import Names, gateway_of, ipv6_subnet_of

_SETS = {
    "ports": "map ports { type inet_proto . inet_service : verdict; }",
    "bound": "map bound { type ipv4_addr . inet_proto . inet_service : verdict; }",
    "refused": "set refused { type inet_proto . inet_service; }",
    "peers": "set peers { type ipv4_addr; }",
    "bridged": "set bridged { type ifname . ifname; }",
}


_REFUSED = "meta nfproto ipv4 fib daddr type local meta l4proto . th dport @refused goto refuse"


class Ruleset(msgspec.Struct, frozen=True, kw_only=True):
    """A whole table.

    Attributes:
        base: base chain or subchain -> its lines; the same names in every ruleset.
        chains: chain of a published port -> its rule.
        elements: set or map -> key -> value ("" in a set).
        udp_targets: published UDP port -> where flows to it may go.
    """

    table: str
    base: Mapping[str, tuple[str, ...]]
    chains: Mapping[str, str]
    elements: Mapping[str, Mapping[str, str]]
    udp_targets: Mapping[int, frozenset[tuple[str, int]]]


def make_ruleset(
    names: Names,
    local_subnet: IPv4Network,
    mesh: Mesh | None,
    overlays: Sequence[int],
    endpoints: Iterable[Endpoint],
    ingress: Iterable[IngressPort],
    local: Sequence[LocalNetwork] = (),
) -> Ruleset:
    """Derive the table; the same input gives the same table, in the same order.

    `overlays` are the VNIs of the cluster networks that are here.
    """
    chains: dict[str, str] = {}
    udp: dict[int, set[tuple[str, int]]] = {}
    elements: dict[str, dict[str, str]] = {name: {} for name in _SETS}
    for endpoint in endpoints:
        for binding in endpoint.ports:
            chain = _binding_chain(binding)
            target = (endpoint.outward.ipv4, binding.container_port)
            chains[chain] = _dnat(binding.protocol, [target])
            if binding.protocol == "udp":
                udp.setdefault(binding.host_port, set()).add(target)
            key = f"{binding.protocol} . {binding.host_port}"
            if binding.host_ip == ANY_ADDRESS:
                elements["ports"][key] = f"goto {chain}"
            else:
                elements["bound"][f"{binding.host_ip} . {key}"] = f"goto {chain}"
    reach = _Reach(mesh)
    for entry in ingress:
        key = f"{entry.protocol} . {entry.published_port}"
        reachable = _reachable(reach, entry)
        if entry.protocol == "udp":
            udp.setdefault(entry.published_port, set()).update(reachable)
        if reachable:
            chain = f"i_{entry.protocol}_{entry.published_port}"
            chains[chain] = _dnat(entry.protocol, reachable)
            elements["ports"][key] = f"goto {chain}"
        else:
            elements["refused"][key] = ""
    if mesh is not None:
        elements["peers"] = {peer.underlay: "" for peer in mesh.peers}
    bridges = [f'"{names.overlay_bridge(vni)}"' for vni in overlays]
    user = [each for each in local if each.bridged]
    bridges += [_quoted(names, each) for each in user if not each.isolated]
    elements["bridged"] = {f"{bridge} . {bridge}": "" for bridge in bridges}
    return Ruleset(
        table=names.table,
        base=_base(names, local_subnet, mesh, overlays, user),
        chains=dict(sorted(chains.items())),
        udp_targets={port: frozenset(targets) for port, targets in sorted(udp.items())},
        elements={name: dict(sorted(keys.items())) for name, keys in elements.items()},
    )


class _Reach:
    """The subnets this host has a route to; a packet to any other would leave by the uplink."""

    def __init__(self, mesh: Mesh | None) -> None:
        subnets = [] if mesh is None else [mesh.subnet, *(peer.subnet for peer in mesh.peers)]
        self._by_mask: dict[int, set[int]] = {}
        for subnet in map(IPv4Network, subnets):
            networks = self._by_mask.setdefault(int(subnet.netmask), set())
            networks.add(int(subnet.network_address))

    def covers(self, address: str) -> bool:
        number = int(IPv4Address(address))
        return any(number & mask in networks for mask, networks in self._by_mask.items())


def _reachable(reach: _Reach, entry: IngressPort) -> list[tuple[str, int]]:
    return sorted(
        {
            (backend.address, backend.port)
            for backend in entry.backends
            if reach.covers(backend.address)
        }
    )


def _binding_chain(binding: PortBinding) -> str:
    chain = f"p_{binding.protocol}_{binding.host_port}"
    if binding.host_ip != ANY_ADDRESS:
        chain += f"_{int(IPv4Address(binding.host_ip)):08x}"
    return chain


def _dnat(protocol: str, backends: list[tuple[str, int]]) -> str:
    if len(backends) == 1:
        address, port = backends[0]
        return f"meta l4proto {protocol} dnat ip to {address}:{port}"
    # random, not inc: a counter would start anew at the first backend with every change
    choices = ", ".join(
        f"{index} : {address} . {port}" for index, (address, port) in enumerate(backends)
    )
    count = len(backends)
    return f"meta l4proto {protocol} dnat ip to numgen random mod {count} map {{ {choices} }}"


def _base(
    names: Names,
    local_subnet: IPv4Network,
    mesh: Mesh | None,
    overlays: Sequence[int],
    user: Sequence[LocalNetwork],
) -> dict[str, tuple[str, ...]]:
    local, tasks = f'"{names.local_bridge}"', f'"{names.mesh_bridge}"'
    vxlan, overlay = f'"{names.vxlan}"', f'"{names.overlay_bridges}"'
    ours = _set([local, tasks, vxlan, *(_quoted(names, each) for each in user)])
    return {
        "refuse": ("meta l4proto tcp reject with tcp reset", "reject"),
        "published": (
            "meta nfproto ipv4 ip daddr . meta l4proto . th dport vmap @bound",
            "meta nfproto ipv4 meta l4proto . th dport vmap @ports",
        ),
        # seen with bridge netfilter only: cluster networks pass the host without a trace
        "raw": ("type filter hook prerouting priority -300;", f"iifname {overlay} notrack"),
        "prerouting": (
            "type nat hook prerouting priority -105;",
            # route_localnet would else open ports published on 127.0.0.1 to containers
            "ip daddr 127.0.0.0/8 return",
            "fib daddr type local jump published",
        ),
        "output": (
            "type nat hook output priority -105;",
            "fib daddr type local jump published",
        ),
        "input": (
            "type filter hook input priority -5;",
            f"iifname {overlay} drop",
            f"iifname {ours} ip daddr 127.0.0.0/8 ct state new,invalid drop",
            *_peers_only(mesh, overlays),
            _REFUSED,
        ),
        "forward": (
            "type filter hook forward priority -5;",
            # a frame from port to port, never a packet that the host would route
            "iifname . oifname @bridged accept",
            f"iifname {overlay} drop",
            f"oifname {overlay} drop",
            *_internal(names, user),
            "ct state established,related accept",
            "ct status dnat accept",
            f"iifname {local} oifname {local} accept",
            # other hosts send what one of their own published ports led here
            f"iifname {vxlan} oifname {tasks} accept",
            f"oifname {ours} drop",
        ),
        "postrouting": (
            "type nat hook postrouting priority 95;",
            *_source_rewriting(local, ours, local_subnet),
            *(rule for each in user for rule in _user_rewriting(names, each, ours)),
            *_mesh_source_rewriting(tasks, vxlan, ours, mesh),
        ),
    }


def _peers_only(mesh: Mesh | None, overlays: Sequence[int]) -> tuple[str, ...]:
    """Only peers may send into our VXLANs; others may use the same port for other ones."""
    if mesh is None:
        return ()
    vnis = ", ".join(map(str, (mesh.vni, *overlays)))
    return (f"udp dport {mesh.udp_port} @th,96,24 {{ {vnis} }} ip saddr != @peers drop",)


def _source_rewriting(bridge: str, ours: str, subnet: IPv4Network) -> tuple[str, ...]:
    gateway = gateway_of(subnet)
    return (
        f"oifname {bridge} ip saddr 127.0.0.0/8 snat ip to {gateway}",
        # by subnet, not iifname: with bridge netfilter on, this hook knows no input device
        f"ip saddr {subnet} oifname {bridge} ct status dnat snat ip to {gateway}",
        f"ip saddr {subnet} oifname != {ours} masquerade",
    )


def _user_rewriting(names: Names, network: LocalNetwork, ours: str) -> list[str]:
    bridge = _quoted(names, network)
    first = network.pools[0]
    rules = [
        f"oifname {bridge} ip saddr 127.0.0.0/8 snat ip to {first.gateway}",
        f"ip saddr {first.subnet} oifname {bridge} ct status dnat snat ip to {first.gateway}",
    ]
    if network.masquerade and not network.internal:
        rules += [
            f"{'ip6' if ':' in pool.subnet else 'ip'} saddr {pool.subnet} oifname != {ours}"
            " masquerade"
            for pool in network.pools
        ]
    return rules


def _internal(names: Names, user: Sequence[LocalNetwork]) -> tuple[str, ...]:
    """Nothing is routed out of an internal network, or into it."""
    found = [_quoted(names, each) for each in user if each.internal]
    return tuple(f"{way} {_set(found)} drop" for way in ("iifname", "oifname") if found)


def _quoted(names: Names, network: LocalNetwork) -> str:
    return f'"{names.user_bridge(network.number)}"'


def _set(members: Iterable[str]) -> str:
    return f"{{ {', '.join(members)} }}"


def _mesh_source_rewriting(
    tasks: str, vxlan: str, ours: str, mesh: Mesh | None
) -> tuple[str, ...]:
    """A task on another host must answer through this one, which knows the client."""
    if mesh is None:
        return ()
    gateway = gateway_of(mesh.subnet)
    return (
        f"oifname {vxlan} ct status dnat ip saddr != {mesh.subnet} snat ip to {gateway}",
        *_source_rewriting(tasks, ours, IPv4Network(mesh.subnet)),
        *_source_rewriting6(ours, mesh),
    )


def _source_rewriting6(ours: str, mesh: Mesh) -> tuple[str, ...]:
    """What leaves by IPv6 leaves with the host's address: nobody routes to ours."""
    if not mesh.prefix6:
        return ()
    subnet = ipv6_subnet_of(mesh.prefix6, mesh.subnet)
    return (f"ip6 saddr {subnet} oifname != {ours} masquerade",)


def replacement(new: Ruleset, present_chains: Iterable[str] = ()) -> str:
    """Text that makes the table `new`, whatever of it is there: one transaction."""
    table = f"inet {new.table}"
    lines = [f"table {table} {{", *_SETS.values(), *_declarations(new), "}"]
    lines.append(f"flush table {table}")
    for name, declaration in _SETS.items():
        lines.append(f"flush {declaration.split()[0]} {table} {name}")
    stale = sorted(set(present_chains) - set(new.base) - set(new.chains))
    lines += [f"delete chain {table} {chain}" for chain in stale]
    for chain, rules in new.base.items():
        lines += [f"add rule {table} {chain} {rule}" for rule in rules if not _is_hook(rule)]
    lines += [f"add rule {table} {chain} {rule}" for chain, rule in new.chains.items()]
    lines += _element_lines("add", table, new.elements)
    return "\n".join(lines) + "\n"


def difference(old: Ruleset, new: Ruleset) -> str:
    """Text that turns `old`, known to be in the kernel, into `new`; empty when equal."""
    table = f"inet {new.table}"
    gone: dict[str, dict[str, str]] = {}
    added: dict[str, dict[str, str]] = {}
    for name in _SETS:
        before, after = old.elements[name].items(), new.elements[name].items()
        gone[name] = dict(sorted(before - after))
        added[name] = dict(sorted(after - before))
    lines = _element_lines("delete", table, gone)
    lines += [f"delete chain {table} {name}" for name in old.chains if name not in new.chains]
    for chain, rules in new.base.items():
        if old.base[chain] != rules:
            lines.append(f"flush chain {table} {chain}")
            lines += [
                f"add rule {table} {chain} {rule}" for rule in rules if not _is_hook(rule)
            ]
    for chain, rule in new.chains.items():
        if chain not in old.chains:
            lines.append(f"add chain {table} {chain}")
        elif old.chains[chain] != rule:
            lines.append(f"flush chain {table} {chain}")
        else:
            continue
        lines.append(f"add rule {table} {chain} {rule}")
    lines += _element_lines("add", table, added)
    return "\n".join(lines) + "\n" if lines else ""


def _declarations(ruleset: Ruleset) -> list[str]:
    lines = []
    for chain, rules in ruleset.base.items():
        hook = rules[0] if _is_hook(rules[0]) else ""
        lines.append(f"chain {chain} {{ {hook} }}")
    lines += [f"chain {chain} {{ }}" for chain in ruleset.chains]
    return lines


def _is_hook(rule: str) -> bool:
    return rule.startswith("type ")


def _element_lines(
    verb: str, table: str, elements: Mapping[str, Mapping[str, str]]
) -> list[str]:
    lines = []
    for name, keys in elements.items():
        if keys:
            body = ", ".join(
                f"{key} : {value}" if value else key for key, value in keys.items()
            )
            lines.append(f"{verb} element {table} {name} {{ {body} }}")
    return lines
