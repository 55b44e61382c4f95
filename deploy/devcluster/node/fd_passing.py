"""Receives datagrams with file descriptors that child processes do not inherit.

`socket.recv_fds` of Python 3.11 ignores its flags, so received descriptors would leak into every child process.
"""

from __future__ import annotations

import array
import socket

MOST_BYTES = 1 << 18
MOST_DESCRIPTORS = 16


def receive(connection: socket.socket) -> tuple[bytes, list[int]]:
    """Receive one datagram with its descriptors, which the caller closes. Empty if the peer is gone.

    Raises `BlockingIOError`, `ConnectionError`.
    """
    room = socket.CMSG_LEN(MOST_DESCRIPTORS * array.array("i").itemsize)
    datagram, beside, _, _ = connection.recvmsg(MOST_BYTES, room, socket.MSG_CMSG_CLOEXEC)
    received = array.array("i")
    for level, kind, content in beside:
        if level == socket.SOL_SOCKET and kind == socket.SCM_RIGHTS:
            received.frombytes(content[: len(content) - len(content) % received.itemsize])
    return datagram, received.tolist()
