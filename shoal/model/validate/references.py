"""The rules of secrets and configs in a service: which, as what file. Pure.

That they exist is asked of the cluster by `manager.control.references`. Called by `container`.
"""

from collections.abc import Sequence

from shoal.model.numbers import within
from shoal.model.spec.task import (
    ConfigReference,
    ContainerSpec,
    ReferenceFile,
    SecretReference,
)
from shoal.model.validate.refusal import invalid, unimplemented

_CONTAINER = "TaskTemplate.ContainerSpec"
_MOST_MODE = 0o7777
_MOST_ID = (1 << 32) - 2


def check_references(spec: ContainerSpec) -> None:
    """Refuse references that name nothing, or files that cannot be."""
    for number, secret in enumerate(spec.secrets):
        path = f"{_CONTAINER}.Secrets[{number}]"
        if not secret.secret_id or not secret.secret_name:
            raise invalid(
                path, "malformed secret reference: SecretID and SecretName are needed"
            )
        _check_file(secret.file, path, "secret")
    for number, config in enumerate(spec.configs):
        path = f"{_CONTAINER}.Configs[{number}]"
        if not config.config_id or not config.config_name:
            raise invalid(
                path, "malformed config reference: ConfigID and ConfigName are needed"
            )
        if config.runtime is not None:
            raise unimplemented(
                f"{path}.Runtime", "configs for the runtime (credential specs) are for Windows"
            )
        _check_file(config.file, path, "config")
    _check_conflicts(spec.secrets, "Secrets", "secret")
    _check_conflicts(spec.configs, "Configs", "config")


def _check_file(file: ReferenceFile | None, path: str, kind: str) -> None:
    if file is None:
        raise invalid(f"{path}.File", f"malformed {kind} reference, no target provided")
    if not file.name or file.name.endswith("/") or ".." in file.name.split("/"):
        raise invalid(
            f"{path}.File.Name",
            f"malformed file {kind} reference, invalid target file name {file.name!r} provided",
        )
    for key, text in (("UID", file.uid), ("GID", file.gid)):
        if text and within(text, 0, _MOST_ID) is None:
            raise invalid(f"{path}.File.{key}", f"{text!r} is not a numeric id")
    if not 0 <= file.mode <= _MOST_MODE:
        raise invalid(
            f"{path}.File.Mode", f"must be a file mode as a plain number, not {file.mode}"
        )


def _check_conflicts(
    references: Sequence[SecretReference | ConfigReference], field: str, kind: str
) -> None:
    taken: dict[str, str] = {}
    for number, one in enumerate(references):
        name = one.secret_name if isinstance(one, SecretReference) else one.config_name
        target = one.file.name if one.file is not None else ""
        if target in taken:
            raise invalid(
                f"{_CONTAINER}.{field}[{number}].File.Name",
                f"{kind} references '{taken[target]}' and '{name}' have a conflicting target:"
                f" '{target}'",
            )
        taken[target] = name
