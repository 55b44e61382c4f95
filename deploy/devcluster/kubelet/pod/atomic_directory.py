"""A directory whose files all change at once, as with the kubelet's AtomicWriter.

`name` is a link to `..data/name`, and `..data` is a link to a directory with a new name for each version. Renaming the
new link over the old one is the switch. A watcher of the directory (Envoy) sees exactly that rename, and a reader never
sees a partly written file, or one file of a pair without the other.
"""

from __future__ import annotations

import os
import shutil
from pathlib import Path, PurePosixPath

from deploy.devcluster.kubelet.pod.volume_payload import Files
from shared.errors import BadInputError

_LINK = "..data"


class AtomicDirectory:
    """The directory of one configuration volume."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._held: Files | None = None
        self._generation = 0

    def write(self, files: Files) -> bool:
        """Replace all files. Returns whether anything changed. Raises `BadInputError` for an invalid path."""
        if self._held == files:
            return False
        for name in files:
            if PurePosixPath(name).is_absolute() or ".." in PurePosixPath(name).parts or name.startswith(".."):
                raise BadInputError("devcluster/volume-path", f"`{name}` may not be a path inside a volume")
        self._path.mkdir(parents=True, exist_ok=True, mode=0o755)
        self._generation += 1
        fresh = self._path / f"..{self._generation:06d}"
        fresh.mkdir(mode=0o755)
        for name, file in files.items():
            target = fresh / name
            target.parent.mkdir(parents=True, exist_ok=True)
            descriptor = os.open(target, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
            with os.fdopen(descriptor, "wb") as stream:
                stream.write(file.content)
            target.chmod(file.mode)
        before = self._path / _LINK
        stale = before.readlink() if before.is_symlink() else None
        switch = self._path / f"{_LINK}_tmp"
        switch.unlink(missing_ok=True)
        switch.symlink_to(fresh.name)
        switch.rename(before)
        self._link({PurePosixPath(name).parts[0] for name in files})
        if stale is not None:
            shutil.rmtree(self._path / stale)
        self._held = dict(files)
        return True

    def _link(self, names: set[str]) -> None:
        present = {entry.name for entry in self._path.iterdir() if not entry.name.startswith("..")}
        for name in names - present:
            (self._path / name).symlink_to(f"{_LINK}/{name}")
        for name in present - names:
            (self._path / name).unlink()
