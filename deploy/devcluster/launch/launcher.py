"""The launcher: the only process of a mesh in the host's namespaces, and the parent of all others.

It enters new namespaces, forks pid 1 of the mesh, and waits. If one of the processes dies, all others end:

- the launcher dies (also by SIGKILL): the kernel kills pid 1 (parent-death signal), and with pid 1 its namespace;
- pid 1 dies: the kernel kills all processes of its namespace; the launcher ends;
- the devcluster dies: pid 1 ends.

`mesh_process.start` starts it as a fresh interpreter: only a process with one thread can enter a user namespace.
"""

from __future__ import annotations

import json
import os
import select
import signal
import sys
import time
from pathlib import Path
from types import FrameType
from typing import Any

from deploy.devcluster.launch import init, requirements
from deploy.devcluster.launch.handover import report_failure
from deploy.devcluster.launch.statedir import StateDir, named
from deploy.devcluster.node import syscalls

GRACE_SECONDS = 8.0
"""Seconds that the devcluster has to end after SIGTERM."""


def main() -> int:
    """Run the mesh of the first argument (JSON, see `mesh_process.start`). Returns the devcluster's exit code."""
    spec: dict[str, Any] = json.loads(sys.argv[1])
    ready, control, tether = int(spec["ready"]), int(spec["control"]), spec["tether"]
    listeners = [int(number) for number in spec["listeners"].values()]
    for descriptor in [ready, control, int(spec["lock"]), *listeners, *([] if tether is None else [tether])]:
        os.set_inheritable(descriptor, False)
    lack = requirements.missing()
    if lack is not None:
        report_failure(ready, *lack)
        return 2
    state = StateDir(Path(spec["state_dir"]))
    record = {**spec["record"], "launcher": named(os.getpid())}
    state.write(record)

    woken, waker = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
    signal.set_wakeup_fd(waker, warn_on_full_buffer=False)
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGCHLD):
        signal.signal(number, _wake)

    user, group = os.getuid(), os.getgid()
    syscalls.unshare(syscalls.CLONE_NEWUSER)
    syscalls.map_only_user(user, group)
    syscalls.unshare(requirements.OURS)
    # Pid 1 waits until it is recorded; this end closes when the launcher dies.
    line, lifeline = os.pipe2(os.O_CLOEXEC)
    child = os.fork()
    if child == 0:
        for descriptor in [lifeline, woken, waker, *([] if tether is None else [tether])]:
            os.close(descriptor)
        init.run(spec, line)
    state.write({**record, "init": named(child)})
    os.write(lifeline, b"!")
    for descriptor in [line, ready, control, *listeners]:
        os.close(descriptor)
    code = _supervise(child, woken, tether)
    state.forget()
    return code


def _wake(_: int, __: FrameType | None) -> None:
    """Does nothing: a signal reaches the wake-up pipe only if it has a handler."""


def _supervise(child: int, woken: int, tether: int | None) -> int:
    """Wait for pid 1 to end; end it after a signal, or when the other end of the tether closes."""
    poll = select.poll()
    poll.register(woken, select.POLLIN)
    if tether is not None:
        poll.register(tether, select.POLLIN)
    deadline: float | None = None
    while True:
        pid, status = os.waitpid(child, os.WNOHANG)
        if pid == child:
            return 128 + os.WTERMSIG(status) if os.WIFSIGNALED(status) else os.WEXITSTATUS(status)
        left = None if deadline is None else max(0.0, deadline - time.monotonic())
        if left == 0.0:
            os.kill(child, signal.SIGKILL)
            os.waitpid(child, 0)
            return 128 + signal.SIGKILL
        asked = False
        for descriptor, _ in poll.poll(None if left is None else left * 1000):
            if descriptor == woken:
                asked |= any(number != signal.SIGCHLD for number in os.read(woken, 4096))
            else:
                poll.unregister(descriptor)
                asked = True
        if asked and deadline is None:
            os.kill(child, signal.SIGTERM)
            deadline = time.monotonic() + GRACE_SECONDS


if __name__ == "__main__":
    sys.exit(main())
