"""The state directory of one embedded mesh: its lock, the record of its processes, its control socket.

Who holds the lock owns the directory. The launcher and pid 1 hold it together (one open file, shared by fork), so it
is free only when both are gone. The record names processes by pid and start time, so a stranger that got the number
of a dead launcher is never mistaken for it.
"""

from __future__ import annotations

import fcntl
import json
import os
from pathlib import Path
from typing import Any

from deploy.devcluster.node import syscalls
from shared.errors import BadInputError
from shared.io.atomic_file import write_atomically

LOG = "devcluster.log"
CONTROL = "control.sock"
_LOCK = "lock"
_RECORD = "mesh.json"


class StateDir:
    """Paths and files of one mesh."""

    def __init__(self, path: Path) -> None:
        self.path = path.resolve()

    @property
    def log(self) -> Path:
        """What the launcher, pid 1 and the devcluster write to stdout and stderr."""
        return self.path / LOG

    @property
    def control(self) -> Path:
        """The control socket."""
        return self.path / CONTROL

    def make(self) -> None:
        """Make the directory, for its owner only."""
        try:
            self.path.mkdir(parents=True, exist_ok=True, mode=0o700)
            self.path.chmod(0o700)
        except (PermissionError, FileExistsError, NotADirectoryError) as error:
            raise BadInputError(
                "up/state-dir", f"the state directory cannot be used: {error.strerror}", about=str(self.path)
            ) from error

    def lock(self) -> int:
        """The lock, as a descriptor that holds it until its last copy is closed. Held already: `BadInputError`."""
        descriptor = os.open(self.path / _LOCK, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            os.close(descriptor)
            raise BadInputError(
                "up/running", "a mesh is running here already; `meshlog down` ends it", about=str(self.path)
            ) from error
        return descriptor

    def locked(self) -> bool:
        """Somebody holds the lock."""
        try:
            os.close(self.lock())
        except BadInputError:
            return True
        except FileNotFoundError:
            return False
        return False

    def write(self, record: dict[str, Any]) -> None:
        """Replace the record, whole or not at all."""
        write_atomically(self.path / _RECORD, json.dumps(record).encode(), sync="none")

    def read(self) -> dict[str, Any] | None:
        """The record; none if there is none."""
        try:
            return json.loads((self.path / _RECORD).read_text())
        except (FileNotFoundError, NotADirectoryError):
            return None

    def forget(self) -> None:
        """Remove what only a running mesh has. The lock file stays: removing it would let two hold "the" lock."""
        for name in (_RECORD, CONTROL):
            (self.path / name).unlink(missing_ok=True)


def named(pid: int) -> dict[str, Any]:
    """A process of now, for the record."""
    return {"pid": pid, "started": syscalls.start_time(pid)}


def hold(entry: dict[str, Any] | None) -> int | None:
    """A pidfd of a recorded process, if that very process still runs."""
    if entry is None:
        return None
    try:
        pidfd = os.pidfd_open(entry["pid"])
    except ProcessLookupError:
        return None
    # Checked after opening: from here on the descriptor cannot come to mean another process.
    if entry["started"] is None or syscalls.start_time(entry["pid"]) != entry["started"]:
        os.close(pidfd)
        return None
    return pidfd
