"""The system calls that Python 3.11 does not offer, through the C library, each raising `OSError` with what it was for.

Nothing is imported but ctypes: the launcher, pid 1 and the spawner load this module, and they must stay small.
"""

from __future__ import annotations

import ctypes
import os
from pathlib import Path

CLONE_NEWNS = 0x00020000
CLONE_NEWUTS = 0x04000000
CLONE_NEWIPC = 0x08000000
CLONE_NEWUSER = 0x10000000
CLONE_NEWPID = 0x20000000
CLONE_NEWNET = 0x40000000

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

_PR_SET_PDEATHSIG = 1
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
    """Leave the namespaces of `flags` for new ones; a new pid namespace takes the next child."""
    _checked(_libc.unshare(flags), f"unshare({flags:#x})")


def enter(descriptor: int, flags: int) -> None:
    """Enter the namespace that the descriptor is of; or, for a pidfd, those of `flags` of that process."""
    _checked(_libc.setns(descriptor, flags), f"setns({flags:#x})")


def mount(source: str, target: str, kind: str = "", flags: int = 0, options: str = "") -> None:
    """Mount, bind or change a mount, as `flags` say; the C library's order of arguments is not kept."""
    result = _libc.mount(
        source.encode(), target.encode(), kind.encode() or None, flags, options.encode() or None
    )  # fmt: skip
    _checked(result, f"mount {kind or source} on {target}")


def bind(source: str, target: str, *, read_only: bool = False) -> None:
    """Make a directory or a file, with what is mounted below it, appear at `target`."""
    mount(source, target, flags=MS_BIND | MS_REC)
    if read_only:
        # Flags that an outer namespace locked must be repeated, or the remount is refused.
        found = os.statvfs(target).f_flag
        kept = found & _KEPT_FLAGS | (MS_RELATIME if found & _ST_RELATIME else 0)
        mount("none", target, flags=MS_BIND | MS_REMOUNT | MS_RDONLY | kept)


def detach(target: str) -> None:
    """Unmount, with all below, as soon as nobody uses it."""
    _checked(_libc.umount2(target.encode(), MNT_DETACH), f"umount {target}")


def change_root(new_root: str) -> None:
    """Make `new_root` (a mount) the root of this mount namespace, and let the old root go."""
    os.chdir(new_root)
    if _PIVOT_ROOT is not None and _libc.syscall(_PIVOT_ROOT, b".", b".") == 0:
        # The old root now lies over the new one at the same place (pivot_root(2), "pivot_root(".", ".")").
        detach(".")
    else:
        # On an initramfs pivot_root is refused; a moved mount serves, and setns(2) follows it.
        mount(new_root, "/", flags=8192)
        os.chroot(".")
    os.chdir("/")


def die_with_parent() -> None:
    """Have the kernel kill this process when the thread that forked it ends."""
    _checked(_libc.prctl(_PR_SET_PDEATHSIG, 9, 0, 0, 0), "prctl(PR_SET_PDEATHSIG)")


def map_only_user(user: int, group: int) -> None:
    """In a fresh user namespace: the caller's one user and group become root."""
    Path("/proc/self/setgroups").write_text("deny")
    Path("/proc/self/uid_map").write_text(f"0 {user} 1")
    Path("/proc/self/gid_map").write_text(f"0 {group} 1")


def start_time(pid: int) -> str | None:
    """When the process started, in clock ticks since boot: with its pid it names a process for good. None: no such."""
    try:
        line = Path(f"/proc/{pid}/stat").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return None
    # The command, in parentheses, may hold anything; the 22nd field is the 20th after it.
    fields = line.rpartition(")")[2].split()
    return None if fields[0] in "ZX" else fields[19]
