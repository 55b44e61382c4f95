"""Pid 1 of the mesh: starts the devcluster, reaps orphans, and ends with it.

The launcher forks it, so it uses little memory. When it ends, the kernel kills every process of the mesh.
"""

from __future__ import annotations

import contextlib
import json
import os
import resource
import select
import signal
import traceback
from types import FrameType
from typing import Any, NoReturn

from deploy.devcluster.launch.handover import VARIABLE
from deploy.devcluster.node import syscalls


def run(spec: dict[str, Any], line: int) -> NoReturn:
    """Run as pid 1. The pipe `line` delivers "!" once this process is recorded, and closes if the launcher dies."""
    code = 70
    try:
        code = _run(spec, line)
    except BaseException:  # noqa: BLE001 - nothing may return into the launcher's code
        traceback.print_exc()
    finally:
        os._exit(code)


def _run(spec: dict[str, Any], line: int) -> int:
    signal.set_wakeup_fd(-1)
    syscalls.die_with_parent()
    # The launcher may have died before the line above took effect: then its end of the pipe is closed.
    if os.read(line, 1) != b"!":
        return 70
    if select.select([line], [], [], 0)[0]:
        return 70
    syscalls.mount("none", "/", flags=syscalls.MS_REC | syscalls.MS_PRIVATE)
    # If parts of /proc are masked, the kernel permits no new one; the old one stays, with the host's pids.
    with contextlib.suppress(PermissionError):
        syscalls.mount("proc", "/proc", "proc", syscalls.MS_NOSUID | syscalls.MS_NODEV | syscalls.MS_NOEXEC)
    most = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    devcluster = os.fork()
    if devcluster == 0:
        _become_devcluster(spec)

    def forward(number: int, _: FrameType | None) -> None:
        with contextlib.suppress(ProcessLookupError):
            os.kill(devcluster, number)

    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        signal.signal(number, forward)
    for descriptor in [int(spec["ready"]), int(spec["control"]), *map(int, spec["listeners"].values())]:
        os.close(descriptor)
    while True:
        pid, status = os.wait()
        if pid == devcluster:
            return 128 + os.WTERMSIG(status) if os.WIFSIGNALED(status) else os.WEXITSTATUS(status)


def _become_devcluster(spec: dict[str, Any]) -> NoReturn:
    try:
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGPIPE):
            signal.signal(number, signal.SIG_DFL)
        handed = {name: spec[name] for name in ("state_dir", "listeners", "control", "ready")}
        for descriptor in [spec["ready"], spec["control"], *spec["listeners"].values()]:
            os.set_inheritable(int(descriptor), True)
        environment = {**os.environ, VARIABLE: json.dumps(handed)}
        os.execvpe(spec["argv"][0], spec["argv"], environment)  # noqa: S606 - this is what it is for
    except BaseException:  # noqa: BLE001 - nothing may return into pid 1's code
        traceback.print_exc()
    finally:
        os._exit(127)
