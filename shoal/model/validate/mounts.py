"""The rules of mounts in the long form, of services and of `--mount` alike. Pure.

The sentences are Docker's. What only a host can say, such as whether a source is there, is
found where the container is made.
"""

from collections.abc import Sequence

from shoal.model.container import Mount
from shoal.model.validate.refusal import Wording

PROPAGATIONS = ("private", "rprivate", "shared", "rshared", "slave", "rslave")
_TYPES = ("bind", "volume", "tmpfs")
_ELSEWHERE = {
    "cluster": "cluster (CSI) volumes are not supported yet",
    "image": "mounts of type image are not supported",
    "npipe": "mounts of type npipe are for Windows only",
}
_MOST_MODE = 0o7777


def check_mounts(mounts: Sequence[Mount], path: str, wording: Wording) -> None:
    """Refuse mounts that no host could make; `path` leads to the list."""
    targets: set[str] = set()
    for position, mount in enumerate(mounts):
        below = f"{path}[{position}]"
        _check_mount(mount, below, wording)
        target = mount.target.rstrip("/")
        if target in targets:
            raise wording.invalid(f"{below}.Target", f"Duplicate mount point: {mount.target}")
        targets.add(target)


def _check_mount(mount: Mount, path: str, wording: Wording) -> None:
    if mount.type in _ELSEWHERE:
        raise wording.unimplemented(f"{path}.Type", _ELSEWHERE[mount.type])
    if mount.type not in _TYPES:
        raise wording.invalid(
            f"{path}.Type",
            f"invalid mount config: mount type {mount.type!r} is none of {', '.join(_TYPES)}",
        )
    for field, sentence in (*_places(mount), *_options(mount)):
        raise wording.invalid(
            f"{path}.{field}", f'invalid mount config for type "{mount.type}": {sentence}'
        )


def _places(mount: Mount) -> list[tuple[str, str]]:
    """What is wrong with source and target: field and sentence."""
    found = []
    if not mount.target:
        found.append(("Target", "field Target must not be empty"))
    elif not mount.target.startswith("/"):
        sentence = f"invalid mount path: '{mount.target}' mount path must be absolute"
        found.append(("Target", sentence))
    elif not mount.target.strip("/"):
        found.append(("Target", "invalid specification: destination can't be '/'"))
    match mount.type:
        case "bind" if not mount.source:
            found.append(("Source", "field Source must not be empty"))
        case "bind" if not mount.source.startswith("/"):
            sentence = f"invalid mount path: '{mount.source}' mount path must be absolute"
            found.append(("Source", sentence))
        case "volume" if mount.source.startswith("/"):
            sentence = f"'{mount.source}' is a path, a volume has a name: use type bind"
            found.append(("Source", sentence))
        case "tmpfs" if mount.source:
            found.append(("Source", "field Source must not be specified"))
        case _:
            pass
    return found


def _options(mount: Mount) -> list[tuple[str, str]]:
    """What is wrong with the options: field and sentence."""
    found = [
        (name, f"field {name} must not be specified")
        for kind, name, options in (
            ("bind", "BindOptions", mount.bind_options),
            ("volume", "VolumeOptions", mount.volume_options),
            ("tmpfs", "TmpfsOptions", mount.tmpfs_options),
        )
        if options is not None and mount.type != kind
    ]
    bind, tmpfs = mount.bind_options, mount.tmpfs_options
    if bind is not None and bind.propagation and bind.propagation not in PROPAGATIONS:
        known = ", ".join(PROPAGATIONS)
        sentence = f"propagation {bind.propagation!r} is none of {known}"
        found.append(("BindOptions.Propagation", sentence))
    if bind and bind.read_only_non_recursive and bind.read_only_force_recursive:
        sentence = "ReadOnlyNonRecursive and ReadOnlyForceRecursive contradict each other"
        found.append(("BindOptions", sentence))
    if tmpfs is not None and tmpfs.size_bytes < 0:
        sentence = f"the size must not be negative: {tmpfs.size_bytes}"
        found.append(("TmpfsOptions.SizeBytes", sentence))
    if tmpfs is not None and not 0 <= tmpfs.mode <= _MOST_MODE:
        sentence = f"the mode must be a file mode as a plain number, not {tmpfs.mode}"
        found.append(("TmpfsOptions.Mode", sentence))
    if any(not _is_option(option) for option in (tmpfs.options if tmpfs is not None else ())):
        found.append(("TmpfsOptions.Options", "an option is a name, or a name and a value"))
    return found


def _is_option(words: Sequence[str]) -> bool:
    return len(words) in (1, 2) and all(word and "," not in word for word in words)
