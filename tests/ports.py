"""TCP ports for the processes that a test starts: each is given once, and no outgoing connection can take it."""

from __future__ import annotations

import os
import secrets
import socket
import zlib
from collections.abc import Iterator
from pathlib import Path

_LOWEST = 10_240
_RANGE = Path("/proc/sys/net/ipv4/ip_local_port_range")


def free_port() -> int:
    """A TCP port on which nothing listens at 127.0.0.1, and that this process has not given before.

    The kernel takes ports for outgoing connections (and for "port 0") out of `ip_local_port_range`. A port of that
    range can be gone before the process that it is meant for listens on it, so the ports given here lie below it.
    """
    for port in _PORTS:
        with socket.socket() as probe:
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                continue
        return port
    raise AssertionError("no free TCP port is left")


def _candidates() -> Iterator[int]:
    """The ports below the kernel's range, in turn, from a random one on: suites side by side hardly meet.

    The workers of one suite (pytest-xdist) start from the same one, each at a share of its own.
    """
    kernels = int(_RANGE.read_text(encoding="ascii").split()[0]) if _RANGE.exists() else 32_768
    count = max(kernels - _LOWEST, 4_096)
    worker, workers = (
        int(os.environ.get(f"PYTEST_XDIST_{name}", "1").lstrip("gw")) for name in ("WORKER", "WORKER_COUNT")
    )
    suite = os.environ.get("PYTEST_XDIST_TESTRUNUID") or secrets.token_hex()
    start = zlib.crc32(suite.encode()) + worker % workers * count // workers
    for step in range(count):
        yield _LOWEST + (start + step) % count


_PORTS = _candidates()
