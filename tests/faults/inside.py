"""Done from within the namespaces of a process: the cuts in a network and the small disks of the fault suite.

    python -m tests.faults.inside PID cut             nothing comes in by eth0 or goes out, silently
    python -m tests.faults.inside PID refuse PORT     nothing comes in for this TCP port, silently
    python -m tests.faults.inside PID heal            both end
    python -m tests.faults.inside PID shrink DIR MIB  the directory, with what is in it, becomes a disk of that size
    python -m tests.faults.inside PID fill DIR        the disk of this directory has no byte left
    python -m tests.faults.inside PID drain DIR       what filled it goes

A process of its own, because only one with a single thread may enter a user namespace. It needs no more rights than
the process that started the mesh.
"""

from __future__ import annotations

import os
import shutil
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

from deploy.devcluster.node import syscalls
from shared.netfilter.tables import (
    TCP,
    BaseHook,
    Chain,
    Rule,
    Statement,
    Table,
    destination_port,
    in_interface,
    out_interface,
    rules,
    transport,
    verdict,
)
from shared.netfilter.transaction import commit, replace_table

_NAME = "faults"
_FIRST = -400
"""Before every other rule."""
_FILL = ".filled"


def enter(pid: int, flags: int) -> None:
    """Be in the user namespace of the process, and in those of `flags`."""
    pidfd = os.pidfd_open(pid)
    try:
        if Path(f"/proc/{pid}/ns/user").readlink() != Path("/proc/self/ns/user").readlink():
            syscalls.enter(pidfd, syscalls.CLONE_NEWUSER)
        syscalls.enter(pidfd, flags)
    finally:
        os.close(pidfd)


def _table(into: tuple[Rule, ...], out: tuple[Rule, ...]) -> Table:
    return Table(
        name=_NAME,
        chains=(
            Chain(name="into", rules=into, hook=BaseHook(kind="filter", hook="input", priority=_FIRST)),
            Chain(name="out", rules=out, hook=BaseHook(kind="filter", hook="output", priority=_FIRST)),
        ),
    )


def cut(pid: int) -> None:
    """The pod is alone: a host whose cable was pulled."""
    enter(pid, syscalls.CLONE_NEWNET)
    drop: Statement = verdict("drop")
    commit(replace_table(_table(rules((in_interface("eth0"), drop)), rules((out_interface("eth0"), drop)))))


def refuse(pid: int, port: str) -> None:
    """Drop all packets to this port."""
    enter(pid, syscalls.CLONE_NEWNET)
    heard = (transport(TCP), destination_port(int(port)), verdict("drop"))
    commit(replace_table(_table(rules(heard), ())))


def heal(pid: int) -> None:
    """The network is as it was."""
    enter(pid, syscalls.CLONE_NEWNET)
    commit(replace_table(Table(name=_NAME, chains=())))


def shrink(pid: int, directory: str, size: str) -> None:
    """A disk of `size` MiB where the directory is, for what mounts it from now on."""
    enter(pid, syscalls.CLONE_NEWNS)
    with tempfile.TemporaryDirectory() as aside:
        shutil.copytree(directory, aside, dirs_exist_ok=True)
        syscalls.mount("small", directory, "tmpfs", syscalls.MS_NOSUID | syscalls.MS_NODEV, f"mode=0700,size={size}m")
        shutil.copytree(aside, directory, dirs_exist_ok=True)


def fill(pid: int, directory: str) -> None:
    """Write until there is no space left."""
    enter(pid, syscalls.CLONE_NEWNS)
    descriptor = os.open(Path(directory) / _FILL, os.O_WRONLY | os.O_CREAT, 0o600)
    for size in (1 << 20, 4096, 1):
        while True:
            try:
                os.write(descriptor, b"\0" * size)
            except OSError:
                break
    os.close(descriptor)


def drain(pid: int, directory: str) -> None:
    """Give the space back."""
    enter(pid, syscalls.CLONE_NEWNS)
    (Path(directory) / _FILL).unlink(missing_ok=True)


_VERBS: dict[str, Callable[..., None]] = {
    "cut": cut,
    "refuse": refuse,
    "heal": heal,
    "shrink": shrink,
    "fill": fill,
    "drain": drain,
}

if __name__ == "__main__":
    _VERBS[sys.argv[2]](int(sys.argv[1]), *sys.argv[3:])
