"""Maps capability names, as in Kubernetes, to the kernel's numbers (`linux/capability.h`)."""

from __future__ import annotations

from collections.abc import Iterable

_NAMES = (
    "CHOWN", "DAC_OVERRIDE", "DAC_READ_SEARCH", "FOWNER", "FSETID", "KILL", "SETGID", "SETUID", "SETPCAP",
    "LINUX_IMMUTABLE", "NET_BIND_SERVICE", "NET_BROADCAST", "NET_ADMIN", "NET_RAW", "IPC_LOCK", "IPC_OWNER",
    "SYS_MODULE", "SYS_RAWIO", "SYS_CHROOT", "SYS_PTRACE", "SYS_PACCT", "SYS_ADMIN", "SYS_BOOT", "SYS_NICE",
    "SYS_RESOURCE", "SYS_TIME", "SYS_TTY_CONFIG", "MKNOD", "LEASE", "AUDIT_WRITE", "AUDIT_CONTROL", "SETFCAP",
    "MAC_OVERRIDE", "MAC_ADMIN", "SYSLOG", "WAKE_ALARM", "BLOCK_SUSPEND", "AUDIT_READ", "PERFMON", "BPF",
    "CHECKPOINT_RESTORE",
)  # fmt: skip
_NUMBERS = {name: number for number, name in enumerate(_NAMES)}
_ALL = range(64)
"""Includes numbers of future kernels."""


def numbers(names: Iterable[str]) -> list[int]:
    """The sorted numbers of these capabilities; unknown names are ignored."""
    wanted = set(names)
    return list(_ALL) if "ALL" in wanted else sorted(_NUMBERS[name] for name in wanted & _NUMBERS.keys())
