"""Datagrams with descriptors beside them, received so that no program started later inherits them.

`socket.recv_fds` of Python 3.11 takes flags and drops them: what it receives leaks into every child. (Sending is fine.)
"""

from __future__ import annotations

import array
import socket

MOST_BYTES = 1 << 18
MOST_DESCRIPTORS = 16


def receive(connection: socket.socket) -> tuple[bytes, list[int]]:
    """One datagram and its descriptors, which are the caller's; empty when the other side is gone.

    Raises what `recvmsg` raises: `BlockingIOError`, `ConnectionError`.
    """
    room = socket.CMSG_LEN(MOST_DESCRIPTORS * array.array("i").itemsize)
    datagram, beside, _, _ = connection.recvmsg(MOST_BYTES, room, socket.MSG_CMSG_CLOEXEC)
    received = array.array("i")
    for level, kind, content in beside:
        if level == socket.SOL_SOCKET and kind == socket.SCM_RIGHTS:
            received.frombytes(content[: len(content) - len(content) % received.itemsize])
    return datagram, received.tolist()
