"""Generated stubs equal what the contracts in proto/ generate now (`make proto`)."""

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]


def generated(root: Path) -> dict[str, bytes]:
    names = [*(root / "proto").glob("*_pb2*.py"), *(root / "proto").glob("*_pb2*.pyi")]
    return {path.name: path.read_bytes() for path in names}


def test_stubs_are_fresh(tmp_path: Path) -> None:
    contracts = sorted(f"proto/{path.name}" for path in (ROOT / "proto").glob("*.proto"))
    outputs = ("python_out", "grpc_python_out", "mypy_out", "mypy_grpc_out")
    if contracts:
        subprocess.run(
            [sys.executable, "-m", "grpc_tools.protoc", "-I."]
            + [f"--{output}={tmp_path}" for output in outputs]
            + contracts,
            cwd=ROOT,
            check=True,
            env={"PATH": f"{Path(sys.executable).parent}:/usr/bin:/bin"},
        )
    fresh, committed = generated(tmp_path), generated(ROOT)
    stale = {name for name in fresh | committed if fresh.get(name) != committed.get(name)}
    assert not stale, f"{sorted(stale)} differ from what proto/*.proto says; run `make proto`"
