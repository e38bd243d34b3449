"""The kernel: version, and each feature tried out in namespaces that vanish with the trial."""

import os
import platform
import re
from collections.abc import Iterable
from pathlib import Path

from shoal.cli.doctor.finding import Finding, Ground, ok, problem, warning

OLDEST = (5, 10)
"""Debian 11's; pidfd_open, clone into cgroups and nftables' NAT maps are there."""

_NAT = """table inet shoal_doctor {
  map ports { type inet_service : ipv4_addr . inet_service; }
  chain before {
    type nat hook prerouting priority dstnat; policy accept;
    dnat ip to tcp dport map @ports
    dnat ip to numgen random mod 2 map { 0 : 192.0.2.1, 1 : 192.0.2.2 }
  }
}
"""

_TRIALS = (
    ("a bridge", "bridge", ("ip", "link", "add", "t0", "type", "bridge")),
    ("a veth pair", "veth", ("ip", "link", "add", "t0", "type", "veth", "peer", "name", "t1")),
    (
        "a VXLAN device",
        "vxlan",
        ("ip", "link", "add", "t0", "type", "vxlan", "id", "7", "dstport", "4789"),
    ),
)


def version(ground: Ground) -> Iterable[Finding]:
    """The kernel's release."""
    del ground
    return [judge_version(platform.release())]


def judge_version(release: str) -> Finding:
    """Whether a kernel of that release is new enough."""
    numbers = re.match(r"(\d+)\.(\d+)", release)
    if numbers is None:
        return warning(f"the kernel's release {release!r} tells no version", "see `uname -r`")
    if (int(numbers[1]), int(numbers[2])) < OLDEST:
        return problem(
            f"the kernel is {release}; Shoal needs {OLDEST[0]}.{OLDEST[1]} or newer",
            "boot a newer kernel",
        )
    return ok(f"the kernel is {release}")


def root(ground: Ground) -> Iterable[Finding]:
    """Whether we may look at all that is to be looked at."""
    del ground
    if os.geteuid() == 0:
        return []
    return [problem("this is not root: much cannot be looked at", "run it as root")]


def features(ground: Ground) -> Iterable[Finding]:
    """Devices, nftables and overlay mounts: each made once, in a namespace of its own."""
    for name, module, command in _TRIALS:
        answer = ground.run(("unshare", "--net", *command))
        yield judge_trial(name, module, answer.status, answer.said)
    answer = ground.run(("unshare", "--net", "nft", "-f", "-"), stdin=_NAT)
    yield judge_trial("nftables with NAT maps", "nft_chain_nat", answer.status, answer.said)
    answer = ground.run(("unshare", "--mount", "sh", "-euc", _OVERLAY))
    yield judge_trial("an overlay mount", "overlay", answer.status, answer.said)
    if not Path("/proc/sys/kernel/seccomp").exists():
        yield problem(
            "the kernel has no seccomp: containers would run unfiltered",
            "boot a kernel with CONFIG_SECCOMP_FILTER",
        )


_OVERLAY = """
mount -t tmpfs none /mnt
mkdir /mnt/lower /mnt/upper /mnt/work /mnt/merged
mount -t overlay none -o lowerdir=/mnt/lower,upperdir=/mnt/upper,workdir=/mnt/work /mnt/merged
"""


def judge_trial(name: str, module: str, status: int, said: str) -> Finding:
    """What became of an attempt to make something."""
    if status == 0:
        return ok(f"the kernel makes {name}")
    reason = said.splitlines()[0] if said else f"status {status}"
    return problem(
        f"the kernel does not make {name}: {reason}",
        f"load its module (`modprobe {module}`), or boot a kernel that has it",
    )
