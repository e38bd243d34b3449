"""The floor: the same bundles started and removed by bare runc, four at a time.

The bundles are copies of a running task's own configuration, over the same read-only layers,
each with an empty network namespace of its own.
"""

import json
import os
import shutil
import subprocess
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from shoal.cli.sandbox import cgroups

AT_ONCE = 4
_GROUP = f"shoal-floor-{os.getpid()}"


def start_floor(config: dict[str, Any], root: Path, count: int) -> float:
    """Seconds for `count` containers of that OCI configuration, created and started."""
    with tempfile.TemporaryDirectory(prefix="shoal-floor-") as directory:
        place = Path(directory)
        bundles = [_bundle(place, config, root, number) for number in range(count)]
        try:
            began = time.monotonic()
            with ThreadPoolExecutor(AT_ONCE) as pool:
                list(pool.map(lambda each: _runc(place, "run", "-d", "-b", *each), bundles))
            return time.monotonic() - began
        finally:
            for _, name in bundles:
                _runc(place, "delete", "--force", name)
            cgroups.remove(_GROUP)  # runc removes a container's own, never the parent


def _bundle(place: Path, config: dict[str, Any], root: Path, number: int) -> tuple[str, str]:
    bundle = place / f"b{number}"
    bundle.mkdir()
    name = f"floor-{os.getpid()}-{number}"
    mine = json.loads(json.dumps(config))
    mine["root"] = {"path": str(root), "readonly": True}
    mine["process"]["terminal"] = False
    mine["hostname"] = name
    mine["linux"]["cgroupsPath"] = f"/{_GROUP}/{name}"
    for namespace in mine["linux"]["namespaces"]:
        if namespace["type"] == "network":
            namespace.pop("path", None)
    mine["mounts"] = [m for m in mine["mounts"] if m.get("type") != "bind"]
    (bundle / "config.json").write_text(json.dumps(mine))
    return str(bundle), name


def _runc(place: Path, *words: str) -> None:
    with (place / "out").open("ab") as out:
        subprocess.run(
            ["runc", "--root", str(place / "state"), *words],
            stdin=subprocess.DEVNULL,
            stdout=out,
            stderr=out,
            check=True,
        )


def copied_root(host_run: Path, pid: int) -> Path:
    """A plain copy of a running container's root file system, outside of any mount."""
    del host_run
    target = Path(tempfile.mkdtemp(prefix="shoal-floor-root-"))
    shutil.copytree(f"/proc/{pid}/root/bin", target / "bin", symlinks=True)
    for name in ("proc", "sys", "dev", "etc", "tmp"):
        (target / name).mkdir()
    return target
