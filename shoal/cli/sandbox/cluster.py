"""Making one cluster out of a sandbox's hosts as a person would: by the stock `docker` CLI.

Called by `lifecycle` after all hosts answer.
"""

import os
import subprocess
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

from shoal.cli.sandbox import boot
from shoal.cli.sandbox.plan import HostPlan
from shoal.model.errors import Unavailable

_MOST_SECONDS = 120


def docker(host: HostPlan, *arguments: str) -> str:
    """Run the stock CLI against a host; its own words become the error."""
    command = [boot.program("docker"), "-H", host.docker_host, *arguments]
    environment = {name: v for name, v in os.environ.items() if not name.startswith("DOCKER_")}
    try:
        done = subprocess.run(
            command, capture_output=True, text=True, timeout=_MOST_SECONDS, env=environment
        )
    except subprocess.TimeoutExpired as error:
        raise Unavailable(
            f"`docker {' '.join(arguments[:2])}` on {host.name} took over {_MOST_SECONDS} s"
        ) from error
    if done.returncode != 0:
        said = done.stderr.strip() or f"exit code {done.returncode}"
        raise Unavailable(f"`docker {' '.join(arguments[:2])}` on {host.name} failed: {said}")
    return done.stdout.strip()


def form(hosts: list[HostPlan], say: Callable[[str], None]) -> None:
    """Init on the first host, join with all others: managers in turn, workers meanwhile."""
    first, *others = hosts
    say(f"{first.name}: docker swarm init --advertise-addr {first.address}")
    docker(first, "swarm", "init", "--advertise-addr", first.address)
    managers = [host for host in others if host.role == "manager"]
    workers = [host for host in others if host.role == "worker"]
    tokens = {
        role: docker(first, "swarm", "join-token", "-q", role) for role in ("manager", "worker")
    }

    def join(some: list[HostPlan]) -> None:
        for host in some:
            chosen = ["--token", tokens[host.role], "--advertise-addr", host.address]
            docker(host, "swarm", "join", *chosen, f"{first.address}:2377")
            say(f"{host.name}: joined as {host.role}")

    with ThreadPoolExecutor(max_workers=8) as pool:
        for joined in [pool.submit(join, some) for some in (managers, *([w] for w in workers))]:
            joined.result()
