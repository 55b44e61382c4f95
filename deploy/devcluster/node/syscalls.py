"""System calls that Python 3.11 lacks, through the C library. Each raises `OSError` that names its purpose.

Imports little besides ctypes, because launcher, pid 1 and spawner load this module and must stay small.
"""

from __future__ import annotations

import ctypes
import os
import re
import struct
from collections.abc import Collection
from pathlib import Path

CLONE_NEWNS = 0x00020000
CLONE_NEWUTS = 0x04000000
CLONE_NEWIPC = 0x08000000
CLONE_NEWUSER = 0x10000000
CLONE_NEWPID = 0x20000000
CLONE_NEWNET = 0x40000000

_EPERM, _ENOSYS = 1, 38

MS_RDONLY = 1
MS_NOSUID = 2
MS_NODEV = 4
MS_NOEXEC = 8
MS_REMOUNT = 32
MS_NOATIME = 1024
MS_NODIRATIME = 2048
MS_BIND = 4096
MS_REC = 16384
MS_UNBINDABLE = 1 << 17
MS_PRIVATE = 1 << 18
MS_RELATIME = 1 << 21
MNT_DETACH = 2

ATTR_RDONLY, ATTR_NOSUID, ATTR_NODEV = 1, 2, 4

_PR_SET_PDEATHSIG = 1
_PR_CAPBSET_READ, _PR_CAPBSET_DROP = 23, 24
_AT_FDCWD = -100
_AT_RECURSIVE = 0x8000
_MOUNT_SETATTR = 442
_KEPT_FLAGS = MS_RDONLY | MS_NOSUID | MS_NODEV | MS_NOEXEC | MS_NOATIME | MS_NODIRATIME
_ST_RELATIME = 4096

_libc = ctypes.CDLL(None, use_errno=True)
_libc.mount.argtypes = (ctypes.c_char_p, ctypes.c_char_p, ctypes.c_char_p, ctypes.c_ulong, ctypes.c_char_p)
_libc.prctl.argtypes = (ctypes.c_int, *([ctypes.c_ulong] * 4))
_PIVOT_ROOT = {"x86_64": 155, "aarch64": 41, "riscv64": 41}.get(os.uname().machine)


def _checked(result: int, purpose: str) -> None:
    if result < 0:
        number = ctypes.get_errno()
        raise OSError(number, f"{purpose}: {os.strerror(number)}")


def unshare(flags: int) -> None:
    """Move this process to new namespaces; a new pid namespace applies to its next child."""
    _checked(_libc.unshare(flags), f"unshare({flags:#x})")


def enter(descriptor: int, flags: int) -> None:
    """Enter the namespace of a descriptor, or for a pidfd the namespaces `flags` of that process."""
    _checked(_libc.setns(descriptor, flags), f"setns({flags:#x})")


def mount(source: str, target: str, kind: str = "", flags: int = 0, options: str = "") -> None:
    """Make, bind or change a mount according to `flags`. The order of arguments is not that of the system call."""
    result = _libc.mount(
        source.encode(), target.encode(), kind.encode() or None, flags, options.encode() or None
    )  # fmt: skip
    _checked(result, f"mount {kind or source} on {target}")


def bind(source: str, target: str, *, attributes: int = 0) -> None:
    """Bind-mount a directory or file recursively to `target`, with additional `ATTR_*` attributes."""
    mount(source, target, flags=MS_BIND | MS_REC)
    if attributes:
        _restrict(target, attributes)


def _restrict(target: str, attributes: int) -> None:
    """Set attributes of a mount and all mounts below it; a bind mount alone keeps those unchanged."""
    wanted = struct.pack("QQQQ", attributes, 0, 0, 0)
    number = _libc.syscall(_MOUNT_SETATTR, _AT_FDCWD, target.encode(), _AT_RECURSIVE, wanted, len(wanted))
    if number == 0:
        return
    # Older seccomp profiles of containers return EPERM for unknown system calls.
    if ctypes.get_errno() not in (_ENOSYS, _EPERM):
        _checked(-1, f"mount_setattr {target}")
    for place in _mounts_at(target):
        # Before Linux 5.12: one by one; flags locked by an outer namespace must be repeated.
        found = os.statvfs(place).f_flag
        kept = found & _KEPT_FLAGS | (MS_RELATIME if found & _ST_RELATIME else 0)
        mount("none", place, flags=MS_BIND | MS_REMOUNT | attributes | kept)


def _mounts_at(target: str) -> list[str]:
    with open("/proc/self/mountinfo", "rb") as stream:  # noqa: PTH123 - pathlib is not worth its time here
        fields = [line.split(b" ")[4] for line in stream]
    # Blanks and similar characters are escaped as backslash and three octal digits.
    places = [os.fsdecode(re.sub(rb"\\([0-7]{3})", lambda found: bytes([int(found[1], 8)]), each)) for each in fields]
    return [place for place in places if place == target or place.startswith(target + "/")]


def detach(target: str) -> None:
    """Unmount recursively; lazily, once it is no longer in use."""
    _checked(_libc.umount2(target.encode(), MNT_DETACH), f"umount {target}")


def change_root(new_root: str) -> None:
    """Make `new_root` (a mount) the root of this mount namespace, and unmount the old root."""
    os.chdir(new_root)
    if _PIVOT_ROOT is not None and _libc.syscall(_PIVOT_ROOT, b".", b".") == 0:
        # The old root is now mounted over the new one (pivot_root(2), "pivot_root(".", ".")").
        detach(".")
    else:
        # pivot_root fails on an initramfs; moving the mount works instead, and setns(2) follows it.
        mount(new_root, "/", flags=8192)
        os.chroot(".")
    os.chdir("/")


def die_with_parent() -> None:
    """Let the kernel kill this process when the thread that forked it ends."""
    _checked(_libc.prctl(_PR_SET_PDEATHSIG, 9, 0, 0, 0), "prctl(PR_SET_PDEATHSIG)")


def keep_capabilities(kept: Collection[int]) -> None:
    """Drop all other capabilities from the bounding set of programs that this process executes."""
    number = 0
    while (held := _libc.prctl(_PR_CAPBSET_READ, number, 0, 0, 0)) >= 0:
        if held and number not in kept:
            _checked(_libc.prctl(_PR_CAPBSET_DROP, number, 0, 0, 0), f"drop capability {number}")
        number += 1


def map_only_user(user: int, group: int) -> None:
    """In a new user namespace: map the caller's user and group to root."""
    Path("/proc/self/setgroups").write_text("deny")
    Path("/proc/self/uid_map").write_text(f"0 {user} 1")
    Path("/proc/self/gid_map").write_text(f"0 {group} 1")


def start_time(pid: int) -> str | None:
    """Start time in clock ticks since boot, which with the pid identifies a process. Returns None if it has ended."""
    try:
        line = Path(f"/proc/{pid}/stat").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return None
    # The command in parentheses may contain any character; the 22nd field is the 20th after it.
    fields = line.rpartition(")")[2].split()
    return None if fields[0] in "ZX" else fields[19]
