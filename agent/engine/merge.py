"""What a container runs, from what the user asked and what the image says. Pure.

The rules are Docker's (`merge` and `mergeAndVerifyConfig` of its daemon).
"""

from msgspec.structs import replace

from shoal.model.container import ContainerConfig, HealthConfig
from shoal.model.errors import InvalidArgument

Words = tuple[str, ...]


def words(value: Words | str | None) -> Words | None:
    """A command in list form: Docker takes a string for a list of one."""
    return (value,) if isinstance(value, str) else value


def merge(asked: ContainerConfig, image: ContainerConfig) -> ContainerConfig:
    """The configuration that the container gets.

    Raises:
        InvalidArgument: neither says what to run.
    """
    entrypoint, command = _command(asked, image)
    if not entrypoint and not command:
        raise InvalidArgument("no command specified", field="Cmd")
    return replace(
        asked,
        user=asked.user or image.user,
        exposed_ports={**image.exposed_ports, **asked.exposed_ports},
        env=_environment(asked.env or (), image.env or ()),
        labels={**image.labels, **asked.labels},
        entrypoint=entrypoint,
        cmd=command,
        healthcheck=_health(asked.healthcheck, image.healthcheck),
        working_dir=asked.working_dir or image.working_dir,
        volumes={**(image.volumes or {}), **(asked.volumes or {})} or None,
        stop_signal=asked.stop_signal or image.stop_signal,
        shell=asked.shell or image.shell,
    )


def arguments(config: ContainerConfig) -> Words:
    """The whole command line: entrypoint, then command."""
    return (words(config.entrypoint) or ()) + (words(config.cmd) or ())


def _command(
    asked: ContainerConfig, image: ContainerConfig
) -> tuple[Words | None, Words | None]:
    entrypoint, command = words(asked.entrypoint), words(asked.cmd)
    if not entrypoint:
        command = command or words(image.cmd)
        if entrypoint is None:
            entrypoint = words(image.entrypoint)
    if entrypoint == ("",):  # `--entrypoint ""` clears the image's
        entrypoint = None
    return entrypoint, command


def _environment(asked: Words, image: Words) -> Words:
    named = {entry.partition("=")[0] for entry in asked}
    return asked + tuple(e for e in image if e.partition("=")[0] not in named)


def _health(asked: HealthConfig | None, image: HealthConfig | None) -> HealthConfig | None:
    if asked is None or image is None:
        return asked or image
    return HealthConfig(
        test=asked.test or image.test,
        interval=asked.interval or image.interval,
        timeout=asked.timeout or image.timeout,
        start_period=asked.start_period or image.start_period,
        start_interval=asked.start_interval or image.start_interval,
        retries=asked.retries or image.retries,
    )
