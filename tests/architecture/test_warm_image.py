"""The image that agent and manager are forked from holds what both of them import."""

import json
import subprocess
import sys
from collections.abc import Sequence

from shoal.host.processes import Programs

_IMPORT = """
import importlib, json, sys
for module in sys.argv[1:]:
    importlib.import_module(module)
print(json.dumps(list(sys.modules)))
"""


def imported_by(modules: Sequence[str]) -> set[str]:
    command = [sys.executable, "-c", _IMPORT, *modules]
    return set(json.loads(subprocess.run(command, check=True, capture_output=True).stdout))


def test_it_holds_what_both_programs_import_and_nothing_that_neither_does() -> None:
    programs = Programs()
    agent, manager = imported_by([programs.agent]), imported_by([programs.manager])
    image = imported_by(programs.shared)
    lacking, idle = sorted(agent & manager - image), sorted(image - (agent | manager))
    assert not lacking, f"SHARED in shoal/host/warm.py lacks {', '.join(lacking)}"
    assert not idle, f"SHARED in shoal/host/warm.py brings what nobody needs: {', '.join(idle)}"
