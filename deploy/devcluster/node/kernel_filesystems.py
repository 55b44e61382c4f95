"""Mounts `/dev`, `/proc` and `/sys` of a container, as container runtimes do.

Disks, terminals and shared memory of the machine and processes of other pods are not visible, and entries that change
the machine are read-only. The mesh may run as root of the machine, so file modes alone do not suffice. Runs in the
spawner's child, hence string paths and few imports.
"""

# ruff: noqa: PTH102, PTH103, PTH110, PTH112, PTH211

from __future__ import annotations

import os

from deploy.devcluster.node import syscalls

_DEVICES = ("null", "zero", "full", "random", "urandom", "tty")
_LINKS = {
    "/dev/fd": "/proc/self/fd", "/dev/stdin": "/proc/self/fd/0", "/dev/stdout": "/proc/self/fd/1",
    "/dev/stderr": "/proc/self/fd/2", "/dev/ptmx": "pts/ptmx",
}  # fmt: skip
_READ_ONLY = ("bus", "fs", "irq", "sys", "sysrq-trigger")
_MASKED = (
    "acpi", "asound", "interrupts", "kcore", "keys", "latency_stats", "sched_debug", "scsi", "timer_list",
    "timer_stats",
)  # fmt: skip
"""Entries of /proc that Docker and containerd mask."""
_SYSTEM = ("/sys/devices/system/cpu", "/sys/devices/system/node", "/sys/kernel/mm/transparent_hugepage")
"""Entries that memory allocators and language runtimes read: processors and page sizes."""
_NO_PROGRAMS = syscalls.MS_NOSUID | syscalls.MS_NODEV | syscalls.MS_NOEXEC


def make(root: str) -> None:
    """Mount `/dev`, `/proc` and `/sys` below the new root. Raises `OSError` that names the failed mount."""
    _make_devices(root)
    os.mkdir(f"{root}/proc")
    _mount_processes(f"{root}/proc")
    os.mkdir(f"{root}/sys")
    for path in _SYSTEM:
        if os.path.isdir(path):
            os.makedirs(root + path)
            syscalls.bind(path, root + path, attributes=syscalls.ATTR_RDONLY)


def _make_devices(root: str) -> None:
    for name in ("dev", "dev/shm", "dev/pts"):
        os.mkdir(f"{root}/{name}")
    for name in _DEVICES:
        os.close(os.open(f"{root}/dev/{name}", os.O_CREAT | os.O_WRONLY | os.O_CLOEXEC, 0o666))
        syscalls.bind(f"/dev/{name}", f"{root}/dev/{name}")
    for path, leads_to in _LINKS.items():
        os.symlink(leads_to, root + path)
    syscalls.mount("meshlog", f"{root}/dev/shm", "tmpfs", _NO_PROGRAMS, "mode=1777,size=64m")  # noqa: S108 - a mount
    syscalls.mount(
        "devpts",
        f"{root}/dev/pts",
        "devpts",
        syscalls.MS_NOSUID | syscalls.MS_NOEXEC,
        "newinstance,ptmxmode=0666,mode=620",
    )


def _mount_processes(place: str) -> None:
    try:
        syscalls.mount("proc", place, "proc", _NO_PROGRAMS)
    except PermissionError:
        # If parts of /proc are masked (in some containers), the kernel permits no new one.
        syscalls.bind("/proc", place)
    for name in _READ_ONLY:
        if os.path.exists(f"{place}/{name}"):
            syscalls.bind(f"{place}/{name}", f"{place}/{name}", attributes=syscalls.ATTR_RDONLY)
    for name in _MASKED:
        if os.path.isdir(f"{place}/{name}"):
            syscalls.mount("meshlog", f"{place}/{name}", "tmpfs", syscalls.MS_RDONLY, "size=0")
        elif os.path.exists(f"{place}/{name}"):
            syscalls.bind("/dev/null", f"{place}/{name}", attributes=syscalls.ATTR_RDONLY)
