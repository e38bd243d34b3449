"""From a configuration to a running host: directories, locks, the warm image, the loop.

The composition root of the host process. Programs are imported by name, so that the supervisor
depends on neither.
"""

import resource
from pathlib import Path

from shoal.common.clock import SystemClock
from shoal.common.config import HostConfig
from shoal.common.key_files import lock
from shoal.host.lock import lock_directory
from shoal.host.processes import Programs
from shoal.host.supervisor import Supervisor
from shoal.host.warm import warm
from shoal.model.errors import FailedPrecondition


def run_host(config: HostConfig, programs: Programs) -> None:
    """Run until a signal ends it. ClusterError if it cannot start."""
    state, run = _directory(config.state, 0o711), _directory(config.run, 0o755)
    locks = tuple(lock_directory(each) for each in dict.fromkeys((state, run)))
    _raise_descriptor_limit()
    warm(programs.shared, (programs.agent, programs.manager))
    Supervisor(config, programs, SystemClock(), locks).run()
    lock(config)


def _directory(path: str, mode: int) -> Path:
    directory = Path(path)
    try:
        directory.mkdir(mode=mode, parents=True, exist_ok=True)
    except OSError as error:
        raise FailedPrecondition(f"{directory} cannot be made: {error}") from error
    return directory.resolve()


def _raise_descriptor_limit() -> None:
    """A shell's 1,024 would not do for an agent with a few hundred containers."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
