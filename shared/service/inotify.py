"""How many programs that follow files a user may run: the kernel's `fs.inotify.max_user_instances`.

An Envoy follows the pod's token and the trust bundle by two instances each, and ends with an assertion if it gets none.
On a node of Kubernetes all sidecars run as one user, so the limit is one for all of them.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import os
from pathlib import Path

SIDECAR_INSTANCES = 4
"""That a sidecar holds, as counted with Envoy 1.40."""
RAISE = "raise it with `sysctl -w fs.inotify.max_user_instances=8192`"
_LARGE = 1024
_LIMIT = Path("/proc/sys/fs/inotify/max_user_instances")
_CLOEXEC = 0o2000000


def limit() -> int | None:
    """Instances that a user may have; None if the kernel does not show it."""
    try:
        return int(_LIMIT.read_text())
    except (OSError, ValueError):
        return None


def advice(most: int) -> str:
    """What a limit means for sidecars, and how it is raised; empty if it is large."""
    if most >= _LARGE:
        return ""
    return f"fs.inotify.max_user_instances is {most}: {most // SIDECAR_INSTANCES} sidecars of one user at most; {RAISE}"


def room(instances: int = SIDECAR_INSTANCES) -> bool:
    """Whether this user could have so many more now. It tries, and gives them back at once."""
    library = ctypes.CDLL(None, use_errno=True)
    taken: list[int] = []
    try:
        for _ in range(instances):
            descriptor = library.inotify_init1(_CLOEXEC)
            if descriptor < 0:
                # Whatever else is wrong shows itself where it is used.
                return ctypes.get_errno() != errno.EMFILE
            taken.append(descriptor)
        return True
    finally:
        for descriptor in taken:
            with contextlib.suppress(OSError):
                os.close(descriptor)
