"""Named volumes of this host: directories that outlive containers (the `local` driver).

Each is `<directory>/<name>/_data` with its record beside it. Who uses a volume is asked of the
engine's records, never kept twice. Called by the engine and the API; blocking, so that callers
on the event loop go through a thread where much is deleted or copied.
"""

import os
import re
import shutil
from collections.abc import Iterator, Mapping
from datetime import datetime
from pathlib import Path

import msgspec

from shoal.common.clock import Clock
from shoal.common.entropy import new_hex_id
from shoal.common.programs import run_program
from shoal.model.errors import Conflict, InvalidArgument, NotFound, Unimplemented

_NAME = re.compile(r"[a-zA-Z0-9][a-zA-Z0-9_.-]*")
_RECORD = "volume.json"
_OPTIONS = ("type", "o", "device")
ANONYMOUS = "com.docker.volume.anonymous"


class Volume(msgspec.Struct, frozen=True, kw_only=True):
    """A volume; `mountpoint` is its directory on the host."""

    name: str
    created_at: datetime
    mountpoint: str
    labels: Mapping[str, str] = {}
    options: Mapping[str, str] = {}

    @property
    def anonymous(self) -> bool:
        """Made for one container, without a name of its own."""
        return ANONYMOUS in self.labels

    def to_wire(self) -> dict[str, object]:
        """Docker's JSON."""
        return {
            "CreatedAt": self.created_at.strftime("%Y-%m-%dT%H:%M:%SZ"),
            "Driver": "local",
            "Labels": dict(self.labels) or None,
            "Mountpoint": self.mountpoint,
            "Name": self.name,
            "Options": dict(self.options) or None,
            "Scope": "local",
        }


class Volumes:
    """All volumes of this host."""

    def __init__(self, directory: Path, clock: Clock) -> None:
        self._directory = directory
        self._clock = clock
        self._volumes = {volume.name: volume for volume in _load(directory)}

    def __iter__(self) -> Iterator[Volume]:
        return iter(sorted(self._volumes.values(), key=lambda volume: volume.name))

    def get(self, name: str) -> Volume:
        """A volume by name; `NotFound` without one."""
        volume = self._volumes.get(name)
        if volume is None:
            raise NotFound(f"get {name}: no such volume")
        return volume

    def ensure(
        self,
        name: str = "",
        *,
        driver: str = "",
        labels: Mapping[str, str] | None = None,
        options: Mapping[str, str] | None = None,
    ) -> Volume:
        """The volume of that name, made if there is none; without a name an anonymous one."""
        labels = dict(labels or {})
        if not name:
            name = new_hex_id()
            labels[ANONYMOUS] = ""
        if name in self._volumes:
            return self._volumes[name]
        _check(name, driver, options or {})
        volume = Volume(
            name=name,
            created_at=self._clock.now(),
            mountpoint=str(self._directory / name / "_data"),
            labels=labels,
            options=dict(options or {}),
        )
        Path(volume.mountpoint).mkdir(parents=True, mode=0o755)
        record = self._directory / name / _RECORD
        temporary = record.with_suffix(".new")
        temporary.write_bytes(msgspec.json.encode(volume))
        temporary.replace(record)
        self._volumes[name] = volume
        return volume

    def mount(self, volume: Volume) -> None:
        """Mount what its options say, unless that is there already.

        Raises:
            InvalidArgument: mount(8) refuses.
        """
        if is_mounted(volume.mountpoint):
            return
        words = ["mount", "-t", volume.options["type"]]
        if said := volume.options.get("o", ""):
            words += ["-o", said]
        answer = run_program([*words, "--", volume.options["device"], volume.mountpoint])
        if answer.status != 0:
            raise InvalidArgument(
                f"failed to mount local volume {volume.name}: {' '.join(words)}"
                f" {volume.options['device']}: {answer.said}",
                field="Options",
            )

    def unmount(self, volume: Volume) -> None:
        """End that mount, if there is one."""
        if not is_mounted(volume.mountpoint):
            return
        answer = run_program(["umount", "--", volume.mountpoint])
        if answer.status != 0:
            raise Conflict(f"volume {volume.name} could not be unmounted: {answer.said}")

    def remove(self, name: str, users: list[str]) -> None:
        """Delete a volume, never what is mounted there; `Conflict` while containers use it."""
        volume = self.get(name)
        if users:
            raise Conflict(f"remove {name}: volume is in use - [{', '.join(users)}]")
        self.unmount(volume)
        del self._volumes[volume.name]
        directory = self._directory / name
        (directory / _RECORD).unlink(missing_ok=True)
        shutil.rmtree(directory, ignore_errors=True)


def is_empty(directory: Path) -> bool:
    """Whether a volume may get the image's content."""
    with os.scandir(directory) as entries:
        return next(entries, None) is None


def is_mounted(directory: str) -> bool:
    """Whether something is mounted exactly there, be it a directory of the same file system."""
    lines = Path("/proc/self/mountinfo").read_text().splitlines()
    places = (line.split(" ")[4] for line in lines)
    return any(unescaped(place) == directory for place in places)


def unescaped(place: str) -> str:
    """A path as /proc/self/mountinfo writes it."""
    return re.sub(r"\\([0-7]{3})", lambda found: chr(int(found[1], 8)), place)


def size_of(directory: Path) -> int:
    """Bytes used by a tree, links not followed."""
    total = 0
    for root, _, files in os.walk(directory):
        for file in files:
            try:
                total += os.lstat(os.path.join(root, file)).st_blocks * 512
            except FileNotFoundError:
                continue  # deleted while we looked
    return total


def _check(name: str, driver: str, options: Mapping[str, str]) -> None:
    if not _NAME.fullmatch(name) or len(name) > 255:
        raise InvalidArgument(
            f'create {name}: "{name}" includes invalid characters for a local volume name, only'
            ' "[a-zA-Z0-9][a-zA-Z0-9_.-]" are allowed. If you intended to pass a host'
            " directory, use absolute path",
            field="Name",
        )
    if driver not in ("", "local"):
        raise NotFound(f'error looking up volume plugin {driver}: plugin "{driver}" not found')
    for option in options:
        if option == "size":
            raise Unimplemented(f"volume {name}: DriverOpts.size: quotas are not supported")
        if option not in _OPTIONS:
            raise InvalidArgument(
                f'volume {name}: invalid option: "{option}": the local driver has'
                f" {', '.join(_OPTIONS)}",
                field=f"DriverOpts.{option}",
            )
    for option in ("type", "device"):
        if options and not options.get(option):
            raise InvalidArgument(
                f'volume {name}: missing required option: "{option}"',
                field=f"DriverOpts.{option}",
            )


def _load(directory: Path) -> Iterator[Volume]:
    if not directory.is_dir():
        return
    for each in directory.iterdir():
        record = each / _RECORD
        if record.is_file():
            yield msgspec.json.decode(record.read_bytes(), type=Volume)
