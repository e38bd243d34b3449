"""The instance's one nftables table as text: isolation, published ports, the ingress mesh.

Pure. A ruleset is a fixed part (base chains, which never go away while the instance lives) and
what each published port adds: elements of maps. A port leads to the chain for its number of
backends, which picks one by a random number:

    map ports4   { inet_proto . inet_service : verdict }             port : goto pick4_3
    map targets4 { mark . inet_proto . inet_service : ipv4_addr . inet_service }
    map bound4   { ipv4_addr . inet_proto . inet_service : ipv4_addr . inet_service }
    chain pick4_3 { ... dnat ip to numgen random mod 3 . meta l4proto . th dport map @targets4 }

`bound4` has ports published on one address of the host; the same three exist for IPv6. So a
change costs the same beside ten published ports and a thousand. Two ways bring a ruleset into
the kernel, each one transaction: `replacement` whatever is there, `difference` from a known
ruleset. Neither ever deletes the table or a base chain: deleting those makes established
connections hang, and the `ct` rules of the fixed part keep connection tracking alive when the
last port goes. `published` makes the ports, `pick_chains` the chains (nftables' language has
no type for a random number in a map), `nft` applies the text.
"""

from collections.abc import Collection, Iterable, Mapping, Sequence
from ipaddress import IPv4Network

import msgspec

from agent.network.desired import DEFAULT_VXLAN_PORT, Mesh
from agent.network.local import LocalNetwork
from agent.network.pick_chains import pick_chain
from agent.network.plan import Names, gateway_of, ipv6_of, ipv6_subnet_of
from agent.network.published import Element, Port
from agent.network.sealing_rules import sealing_chains

_TRANSPORT = "meta l4proto { tcp, udp, sctp }"
_PORT = "meta l4proto . th dport"
_SETS = {
    "ports4": "map ports4 { type inet_proto . inet_service : verdict; }",
    "ports6": "map ports6 { type inet_proto . inet_service : verdict; }",
    "targets4": "map targets4 { type mark . inet_proto . inet_service "
    ": ipv4_addr . inet_service; }",
    "targets6": "map targets6 { type mark . inet_proto . inet_service "
    ": ipv6_addr . inet_service; }",
    "bound4": "map bound4 { type ipv4_addr . inet_proto . inet_service "
    ": ipv4_addr . inet_service; }",
    "bound6": "map bound6 { type ipv6_addr . inet_proto . inet_service "
    ": ipv6_addr . inet_service; }",
    "refused": "set refused { type inet_proto . inet_service; }",
    "peers": "set peers { type ipv4_addr; }",
    "bridged": "set bridged { type ifname . ifname; }",
}
_REFUSED = f"fib daddr type local ct state != established {_PORT} @refused goto refuse"


class Ruleset(msgspec.Struct, frozen=True, kw_only=True):
    """A whole table.

    Attributes:
        base: base chain or subchain -> its lines; the same names in every ruleset.
        picks: chains that ports lead to: address family and number of backends.
        ports: published port, by its `key` -> what it adds.
        elements: set -> its elements, beside those of the ports.
    """

    table: str
    base: Mapping[str, tuple[str, ...]]
    picks: frozenset[tuple[int, int]]
    ports: Mapping[str, Port]
    elements: Mapping[str, tuple[str, ...]]


def make_ruleset(
    names: Names,
    local_subnet: IPv4Network,
    mesh: Mesh | None,
    overlays: Sequence[int],
    ports: Iterable[Port],
    local: Sequence[LocalNetwork] = (),
    sealed: Collection[int] = (),
) -> Ruleset:
    """Derive the table; the same input gives the same table, in the same order.

    `overlays` are the VNIs of the cluster networks that are here, `sealed` the encrypted ones.
    Of two ports of one key the later counts.
    """
    by_key = {each.key: each for each in ports}
    bridges = [f'"{names.overlay_bridge(vni)}"' for vni in overlays]
    user = [each for each in local if each.bridged]
    bridges += [_quoted(names, each) for each in user if not each.isolated]
    return Ruleset(
        table=names.table,
        base={
            **_base(names, local_subnet, mesh, [v for v in overlays if v not in sealed], user),
            **sealing_chains(names, mesh.udp_port if mesh else DEFAULT_VXLAN_PORT, sealed),
        },
        picks=frozenset(pick for port in by_key.values() for pick in port.picks),
        ports=by_key,
        elements={
            "peers": tuple(sorted({peer.underlay for peer in mesh.peers})) if mesh else (),
            "bridged": tuple(f"{bridge} . {bridge}" for bridge in bridges),
        },
    )


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
            f"{_TRANSPORT} dnat ip to ip daddr . {_PORT} map @bound4",
            f"{_TRANSPORT} dnat ip6 to ip6 daddr . {_PORT} map @bound6",
            f"meta nfproto ipv4 {_PORT} vmap @ports4",
            f"meta nfproto ipv6 {_PORT} vmap @ports6",
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
            # answers could not come back to it: the listeners of `relay` serve it
            "ip6 daddr ::1 return",
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
            *_no_impostor(mesh, ours),
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


def _no_impostor(mesh: Mesh | None, ours: str) -> tuple[str, ...]:
    """What a container sends is masqueraded: to a peer's VXLAN it would come from this host."""
    if mesh is None:
        return ()
    return (f"iifname {ours} udp dport {mesh.udp_port} ip daddr @peers drop",)


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
        *(
            f"{word} saddr {pool.subnet} oifname {bridge} ct status dnat snat {word} to"
            f" {pool.gateway}"
            for pool in network.pools
            if pool.gateway and (word := "ip6" if ":" in pool.subnet else "ip")
        ),
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
        *_source_rewriting6(tasks, vxlan, ours, mesh),
    )


def _source_rewriting6(tasks: str, vxlan: str, ours: str, mesh: Mesh) -> tuple[str, ...]:
    """What leaves by IPv6 leaves with the host's address: nobody routes to ours."""
    if not mesh.prefix6:
        return ()
    gateway = ipv6_of(mesh.prefix6, gateway_of(mesh.subnet))
    subnet = ipv6_subnet_of(mesh.prefix6, mesh.subnet)
    return (
        f"oifname {vxlan} ct status dnat ip6 saddr != {subnet} snat ip6 to {gateway}",
        f"ip6 saddr {subnet} oifname {tasks} ct status dnat snat ip6 to {gateway}",
        f"ip6 saddr {subnet} oifname != {ours} masquerade",
    )


def declaration(table: str) -> str:
    """Text that makes the table and its sets, as far as they are missing."""
    return "\n".join((f"table inet {table} {{", *_SETS.values(), "}")) + "\n"


def replacement(new: Ruleset, present_chains: Iterable[str] = ()) -> str:
    """Text that makes the declared table `new`, whatever of it is there: one transaction."""
    table = f"inet {new.table}"
    lines = [f"table {table} {{", *_declarations(new), "}"]
    lines += [f"flush chain {table} {chain}" for chain in new.base]
    for name, declared in _SETS.items():
        lines.append(f"flush {declared.split()[0]} {table} {name}")
    stale = sorted({*present_chains} - {*new.base} - {pick_chain(*each) for each in new.picks})
    # what stays until then may lead to another
    lines += [f"flush chain {table} {chain}" for chain in stale]
    lines += [f"delete chain {table} {chain}" for chain in stale]
    for chain, rules in new.base.items():
        lines += [f"add rule {table} {chain} {rule}" for rule in rules if not _is_hook(rule)]
    lines += _element_lines("add", table, _all_elements(new))
    return "\n".join(lines) + "\n"


def difference(old: Ruleset, new: Ruleset) -> str:
    """Text that turns `old`, known to be in the kernel, into `new`; empty when equal."""
    table = f"inet {new.table}"
    gone, added = _changes(old, new)
    lines = _element_lines("delete", table, gone)
    for chain in sorted(pick_chain(*each) for each in old.picks - new.picks):
        lines += [f"flush chain {table} {chain}", f"delete chain {table} {chain}"]
    for chain, rules in new.base.items():
        if old.base[chain] != rules:
            lines.append(f"flush chain {table} {chain}")
            lines += [
                f"add rule {table} {chain} {rule}" for rule in rules if not _is_hook(rule)
            ]
    lines += _element_lines("add", table, added)
    return "\n".join(lines) + "\n" if lines else ""


def changed_ports(old: Ruleset | None, new: Ruleset) -> list[tuple[Port | None, Port | None]]:
    """Ports that differ, before and after; those not made anew cost next to nothing."""
    before, after = old.ports if old is not None else {}, new.ports
    return [
        (was, now)
        for key in {**before, **after}
        if (was := before.get(key)) is not (now := after.get(key)) and was != now
    ]


def _changes(old: Ruleset, new: Ruleset) -> tuple[list[Element], list[Element]]:
    before = [(name, key, "") for name, keys in old.elements.items() for key in keys]
    after = [(name, key, "") for name, keys in new.elements.items() for key in keys]
    for was, now in changed_ports(old, new):
        before += was.elements if was is not None else ()
        after += now.elements if now is not None else ()
    return sorted({*before} - {*after}), sorted({*after} - {*before})


def _all_elements(ruleset: Ruleset) -> list[Element]:
    fixed = [(name, key, "") for name, keys in ruleset.elements.items() for key in keys]
    return [*fixed, *(each for port in ruleset.ports.values() for each in port.elements)]


def _declarations(ruleset: Ruleset) -> list[str]:
    lines = []
    for chain, rules in ruleset.base.items():
        hook = rules[0] if _is_hook(rules[0]) else ""
        lines.append(f"chain {chain} {{ {hook} }}")
    return lines


def _is_hook(rule: str) -> bool:
    return rule.startswith("type ")


def _element_lines(verb: str, table: str, elements: Iterable[Element]) -> list[str]:
    bodies: dict[str, list[str]] = {}
    for name, key, value in elements:
        bodies.setdefault(name, []).append(f"{key} : {value}" if value else key)
    return [
        f"{verb} element {table} {name} {{ {', '.join(body)} }}"
        for name, body in bodies.items()
    ]
