"""The sandbox's link: a bridge in its own namespace, a cable to each host, one to the machine.

The bridge has its own namespace because a Docker on the same machine may have its firewall
drop bridged traffic in the machine's. Everything is done by `ip` and `nft`, so that a user can
repeat each step by hand. Knows nothing of daemons or files; called by `lifecycle`.
"""

import json
import subprocess
from pathlib import Path

from shoal.cli.sandbox.plan import HostPlan, SandboxPlan
from shoal.model.errors import Internal

NETNS_DIRECTORY = Path("/run/netns")
_TUNNELS = Path("/run/wireguard")
_FORWARDING = Path("/proc/sys/net/ipv4/ip_forward")


def _call(*command: str, stdin: str = "") -> str:
    done = subprocess.run(command, input=stdin, capture_output=True, text=True)
    if done.returncode != 0:
        reason = (done.stderr or done.stdout).strip()
        raise Internal(f"`{' '.join(command)}` failed: {reason}")
    return done.stdout


def _batch(lines: list[str], *, netns: str | None = None) -> None:
    inside = ["-n", netns] if netns is not None else []
    _call("ip", *inside, "-batch", "-", stdin="\n".join(lines) + "\n")


def netns_exists(name: str) -> bool:
    return (NETNS_DIRECTORY / name).exists()


def tunnel_sockets(host: HostPlan) -> list[Path]:
    """Sockets of the host's userspace WireGuard; the directory is the whole machine's."""
    found = list(_TUNNELS.glob("*.sock"))
    if not found or not netns_exists(host.netns):
        return []
    shown = json.loads(_call("ip", "-n", host.netns, "-j", "link"))
    links = {link["ifname"] for link in shown}
    return [each for each in found if each.stem in links]


def make_link(plan: SandboxPlan) -> None:
    """The bridge and the machine's own port on it."""
    link = plan.link_netns
    _batch(
        [
            f"netns add {link}",
            f"link add {plan.machine_link} type veth peer name machine netns {link}",
            f"address add {plan.machine_address}/24 dev {plan.machine_link}",
            f"link set {plan.machine_link} up",
        ]
    )
    _batch(
        [
            "link set lo up",
            "link add shoal type bridge forward_delay 0 mcast_snooping 0",
            "link set shoal up",
            "link set machine master shoal up",
        ],
        netns=link,
    )


def remove_link(plan: SandboxPlan) -> None:
    """Whatever `make_link` made, as far as it came."""
    _remove_interface(plan.machine_link)
    remove_netns(plan.link_netns)


def _remove_interface(name: str, *, netns: str | None = None) -> None:
    inside = ["-n", netns] if netns is not None else []
    shown = subprocess.run(["ip", *inside, "link", "show", name], capture_output=True)
    if shown.returncode == 0:
        _call("ip", *inside, "link", "delete", name)


def remove_netns(name: str) -> None:
    if netns_exists(name):
        _call("ip", "netns", "delete", name)


def plug(plan: SandboxPlan, host: HostPlan) -> None:
    """A namespace for the host with an address, a cable to the bridge, and no way out.

    Without --uplink there is no default route: a packet to elsewhere is refused by the kernel
    at once, which is what makes a look-up of a name outside fail in milliseconds.
    """
    link = plan.link_netns
    _batch([f"netns add {host.netns}"])
    _batch(
        [
            f"link add {host.name} type veth peer name eth0 netns {host.netns}",
            f"link set {host.name} master shoal up",
        ],
        netns=link,
    )
    inside = [
        "link set lo up",
        f"link set eth0 address {host.mac}",
        f"address add {host.address}/24 dev eth0",
        "link set eth0 up",
    ]
    if plan.uplink:
        inside.append(f"route add default via {plan.machine_address}")
    _batch(inside, netns=host.netns)


def unplug(plan: SandboxPlan, host: HostPlan) -> None:
    """The host's namespace with all that its daemons put into it is gone."""
    if netns_exists(plan.link_netns):
        _remove_interface(host.name, netns=plan.link_netns)
    remove_netns(host.netns)


def set_cable(plan: SandboxPlan, host: HostPlan, state: str) -> None:
    """Pull the host's cable (`down`) or put it back (`up`); the host sees its carrier go."""
    _call("ip", "-n", plan.link_netns, "link", "set", host.name, state)


def cable_is_up(plan: SandboxPlan, host: HostPlan) -> bool:
    shown = subprocess.run(
        ["ip", "-n", plan.link_netns, "-j", "link", "show", host.name], capture_output=True
    )
    if shown.returncode != 0:
        return False
    return "UP" in json.loads(shown.stdout)[0]["flags"]


def _in_link(plan: SandboxPlan, script: str) -> None:
    _call("ip", "netns", "exec", plan.link_netns, "nft", "-f", "-", stdin=script)


def drop_between(plan: SandboxPlan, one: HostPlan, other: HostPlan) -> None:
    """No frame passes between the two any more, either way; all else is untouched."""
    restore_between(plan, one, other)
    _in_link(
        plan,
        f"""table bridge cuts {{
          chain forward {{
            type filter hook forward priority 0; policy accept;
            iifname "{one.name}" oifname "{other.name}" drop
            iifname "{other.name}" oifname "{one.name}" drop
          }}
        }}
        """,
    )


def restore_between(plan: SandboxPlan, one: HostPlan, other: HostPlan | None = None) -> None:
    """Take back the cuts between the two, or all cuts of `one`."""
    for handle, ends in _cuts(plan):
        if one.name in ends and (other is None or other.name in ends):
            _in_link(plan, f"delete rule bridge cuts forward handle {handle}\n")


def cuts_of(plan: SandboxPlan, host: HostPlan) -> list[str]:
    """Names of the hosts this one is cut off from."""
    return sorted(
        {end for _, ends in _cuts(plan) if host.name in ends for end in ends - {host.name}}
    )


def _cuts(plan: SandboxPlan) -> list[tuple[int, frozenset[str]]]:
    listed = subprocess.run(
        [
            *("ip", "netns", "exec", plan.link_netns),
            *("nft", "-j", "-a", "list", "chain", "bridge", "cuts", "forward"),
        ],
        capture_output=True,
    )
    if listed.returncode != 0:
        return []
    found = []
    for item in json.loads(listed.stdout)["nftables"]:
        if rule := item.get("rule"):
            ends = [step["match"]["right"] for step in rule["expr"] if "match" in step]
            found.append((rule["handle"], frozenset(ends)))
    return found


def open_uplink(plan: SandboxPlan) -> str:
    """Let the hosts reach what the machine reaches; returns the machine's former ip_forward."""
    before = _FORWARDING.read_text().strip()
    _FORWARDING.write_text("1\n")
    _call(
        "nft",
        "-f",
        "-",
        stdin=f"""table ip {plan.nft_table} {{
          chain postrouting {{
            type nat hook postrouting priority 100; policy accept;
            ip saddr {plan.network} oifname != "{plan.machine_link}" masquerade
          }}
        }}
        """,
    )
    return before


def close_uplink(plan: SandboxPlan, *, others: bool) -> None:
    """Remove the sandbox's table; the last sandbox with an uplink restores ip_forward."""
    listed = subprocess.run(["nft", "list", "table", "ip", plan.nft_table], capture_output=True)
    if listed.returncode == 0:
        _call("nft", "delete", "table", "ip", plan.nft_table)
    if plan.forwarding_was == "0" and not others:
        _FORWARDING.write_text("0\n")
