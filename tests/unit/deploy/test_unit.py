"""The systemd unit starts what there is, and keeps its hands off the containers."""

import argparse
import re
import shutil
import subprocess
from configparser import ConfigParser
from pathlib import Path

import pytest

from shoal.host import command

ROOT = Path(__file__).parents[3]
UNIT = ROOT / "deploy" / "shoal.service"


def unit() -> ConfigParser:
    parser = ConfigParser(interpolation=None)
    parser.optionxform = str  # type: ignore[assignment, method-assign]
    parser.read(UNIT)
    return parser


def test_the_command_line_is_one_that_the_program_takes() -> None:
    program, verb, *flags = unit()["Service"]["ExecStart"].split()
    assert (Path(program).name, verb) == ("shoal", "host")
    parser = argparse.ArgumentParser()
    command.add_arguments(parser)
    parser.parse_args(flags)
    assert "@" not in " ".join(flags), "a placeholder that nobody fills in"


def test_the_installer_names_its_own_program() -> None:
    script = (ROOT / "scripts" / "install").read_text()
    found = re.search(r'sed "(s\|[^"]*)" deploy/shoal.service', script)
    assert found is not None
    rule = found[1].replace("$root", "/opt/shoal")
    done = subprocess.run(["sed", rule, UNIT], capture_output=True, text=True, check=True)
    line = next(row for row in done.stdout.splitlines() if row.startswith("ExecStart="))
    assert line == "ExecStart=/opt/shoal/.venv/bin/shoal host"


def test_stopping_the_unit_stops_no_container() -> None:
    service = unit()["Service"]
    assert service["KillMode"] == "process"
    assert service["Delegate"] == "yes"
    assert service["OOMPolicy"] == "continue"
    assert service["RuntimeDirectoryPreserve"] == "yes"


@pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="no systemd-analyze here")
def test_systemd_understands_every_line(tmp_path: Path) -> None:
    text = UNIT.read_text().replace("/usr/local/bin/shoal", "/bin/true")
    copy = tmp_path / "shoal.service"
    copy.write_text(text)
    done = subprocess.run(
        ["systemd-analyze", "verify", copy], capture_output=True, text=True, check=False
    )
    complaints = [row for row in done.stderr.splitlines() if "shoal.service" in row]
    assert complaints == []
