"""What a host has that containers and networks leave: taken before and after, and compared."""

import json
import os
import subprocess
from pathlib import Path

from tests.e2e.cluster import Cluster

CGROUPS = Path("/sys/fs/cgroup")

Things = dict[str, list[str]]
"""Sorted lines, by what they are of."""


def things(cluster: Cluster, host: str) -> Things:
    """All that must be as before once the last container and network are gone."""
    netns = cluster.hosts[host]["netns"]
    directory = cluster.run_directory(host).parent
    devices = _links(netns)
    prefix = next(name.removesuffix("-l") for name in devices if name.endswith("-l"))
    return {
        "links": devices,
        "addresses": _lines("ip", "-n", netns, "-o", "address"),
        "routes": _lines("ip", "-n", netns, "route", "show", "table", "all"),
        "routes of IPv6": _lines("ip", "-n", netns, "-6", "route", "show", "table", "all"),
        "forwarding": _lines("bridge", "-n", netns, "fdb"),
        "neighbours": [
            line
            for line in _lines("ip", "-n", netns, "neighbour", "show", "nud", "permanent")
            if f" dev {prefix}-" in line
        ],
        "rules": _lines("ip", "netns", "exec", netns, "nft", "-s", "list", "ruleset"),
        "namespaces": [n for n in _lines("ip", "netns") if n.startswith(f"{netns}")],
        "mounts": _mounts(cluster, host, directory),
        "cgroups": _cgroups(prefix),
        "processes": _processes(directory, netns),
        "folders": _folders(directory),
    }


def store(cluster: Cluster, manager: str) -> list[str]:
    """All keys of the store, but for the records of writes, which end by themselves."""
    keys = cluster.etcdctl(
        cluster.etcd_directory(manager), "get", "--prefix", "", "--keys-only"
    ).split()
    return sorted(key for key in keys if not key.startswith("shoal/mutation/"))


def descriptors(cluster: Cluster, host: str) -> dict[str, int]:
    """How many each daemon has open."""
    return {
        name: len(os.listdir(f"/proc/{pid}/fd"))
        for name, pid in cluster.pids(host).items()
        if pid
    }


def memory(cluster: Cluster, host: str) -> dict[str, float]:
    """Proportional set size of each daemon, in MB."""
    found: dict[str, float] = {}
    for name, pid in cluster.pids(host).items():
        if pid:
            for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines():
                if line.startswith("Pss:"):
                    found[name] = round(int(line.split()[1]) / 1024, 1)
    return found


def difference(before: Things, after: Things) -> dict[str, dict[str, list[str]]]:
    """What came and what went; empty where nothing did."""
    found: dict[str, dict[str, list[str]]] = {}
    for kind, lines in after.items():
        come = [each for each in lines if each not in before[kind]]
        gone = [each for each in before[kind] if each not in lines]
        if come or gone or lines != before[kind]:
            found[kind] = {"come": come, "gone": gone}
    return found


def _lines(*words: str) -> list[str]:
    done = subprocess.run(words, capture_output=True, text=True, timeout=30, check=True)
    # Whether a bridge has a link that is up is not of its routes.
    return sorted(line.replace(" linkdown", "").strip() for line in done.stdout.splitlines())


def _links(netns: str) -> list[str]:
    done = subprocess.run(
        ["ip", "-n", netns, "-j", "link"], capture_output=True, text=True, check=True
    )
    return sorted(str(link["ifname"]) for link in json.loads(done.stdout))


def _mounts(cluster: Cluster, host: str, directory: Path) -> list[str]:
    agent = cluster.pids(host)["agent"]
    rows = [
        row
        for pid in ("self", agent)
        for row in Path(f"/proc/{pid}/mounts").read_text().splitlines()
    ]
    return sorted(row for row in rows if str(directory) in row)


def _cgroups(prefix: str) -> list[str]:
    """Of containers: below each hierarchy's own directory of the instance."""
    roots = [CGROUPS, *(each for each in CGROUPS.iterdir() if each.is_dir())]
    return sorted(
        str(found.relative_to(CGROUPS))
        for root in roots
        for found in (root / "shoal" / prefix).rglob("*")
        if found.is_dir()
    )


def _processes(directory: Path, netns: str) -> list[str]:
    """Names of all that speak of the host's directory or are in its network namespace."""
    wanted = (Path("/run/netns") / netns).stat().st_ino
    found = []
    for entry in Path("/proc").iterdir():
        if not entry.name.isdigit():
            continue
        try:
            words = (entry / "cmdline").read_bytes()
            inside = (entry / "ns" / "net").stat().st_ino == wanted
            if inside or os.fsencode(f"{directory}/") in words:
                found.append((entry / "comm").read_text().strip())
        except OSError:
            continue
    return sorted(found)


def _folders(directory: Path) -> list[str]:
    """Everything in the host's directories, but for what etcd keeps."""
    found = (each.relative_to(directory) for each in directory.rglob("*"))
    return sorted(str(each) for each in found if each.parts[:2] != ("state", "etcd"))
