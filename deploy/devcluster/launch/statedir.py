"""The state directory of one embedded mesh: lock, record of its processes, control socket.

The holder of the lock owns the directory. Launcher and pid 1 share the lock (one open file, inherited by fork), so it
is free only after both have ended. The record identifies processes by pid and start time, so a process that reuses the
pid of a dead launcher is not mistaken for it.
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
        """The log file: stdout and stderr of launcher, pid 1 and devcluster."""
        return self.path / LOG

    @property
    def control(self) -> Path:
        """The control socket."""
        return self.path / CONTROL

    def make(self) -> None:
        """Create the directory with mode 0700. Raises `BadInputError`."""
        try:
            self.path.mkdir(parents=True, exist_ok=True, mode=0o700)
            self.path.chmod(0o700)
        except (PermissionError, FileExistsError, NotADirectoryError) as error:
            raise BadInputError(
                "up/state-dir", f"the state directory cannot be used: {error.strerror}", about=str(self.path)
            ) from error

    def lock(self) -> int:
        """Take the lock. Returns the descriptor that holds it until its last copy closes. Raises `BadInputError`."""
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
        """True if a process holds the lock."""
        try:
            os.close(self.lock())
        except BadInputError:
            return True
        except FileNotFoundError:
            return False
        return False

    def write(self, record: dict[str, Any]) -> None:
        """Replace the record atomically."""
        write_atomically(self.path / _RECORD, json.dumps(record).encode(), sync="none")

    def read(self) -> dict[str, Any] | None:
        """Returns the record, or None if there is none."""
        try:
            return json.loads((self.path / _RECORD).read_text())
        except (FileNotFoundError, NotADirectoryError):
            return None

    def forget(self) -> None:
        """Remove record and control socket. The lock file stays: after its removal two processes could hold a lock."""
        for name in (_RECORD, CONTROL):
            (self.path / name).unlink(missing_ok=True)


def named(pid: int) -> dict[str, Any]:
    """The record entry of a running process."""
    return {"pid": pid, "started": syscalls.start_time(pid)}


def hold(entry: dict[str, Any] | None) -> int | None:
    """Returns a pidfd of a recorded process, or None if it no longer runs."""
    if entry is None:
        return None
    try:
        pidfd = os.pidfd_open(entry["pid"])
    except ProcessLookupError:
        return None
    # Compared after opening: the descriptor cannot refer to another process from here on.
    if entry["started"] is None or syscalls.start_time(entry["pid"]) != entry["started"]:
        os.close(pidfd)
        return None
    return pidfd
