"""The spawner: a small single-threaded process that forks all containers.

The devcluster's process is large and has threads: forking it would be slow and unsafe, and a new interpreter per
container takes tens of milliseconds. The spawner is started once; for each container it forks a child that only makes
system calls and executes the program, which takes a few milliseconds.

**A container is a pid namespace, and its program is pid 1 in it**, as in any container runtime: when the program ends,
the kernel kills all its descendants. Walking `/proc` or killing process groups would miss processes that fork meanwhile
or have called `setsid`.

Requests and responses are JSON in SOCK_SEQPACKET datagrams with descriptors attached; `spawner_client` is the peer.
"""

from __future__ import annotations

import contextlib
import gc
import json
import os
import select
import signal
import socket
import sys
from types import FrameType
from typing import Any

from deploy.devcluster.node import rootfs, syscalls
from deploy.devcluster.node.fd_passing import receive

POD = syscalls.CLONE_NEWNET | syscalls.CLONE_NEWUTS | syscalls.CLONE_NEWIPC
_ROUTE = 0


def main() -> None:
    """Serve the socket whose descriptor is the argument until its peer is gone."""
    requests = socket.socket(fileno=int(sys.argv[1]))
    os.set_inheritable(requests.fileno(), False)
    syscalls.die_with_parent()
    woken, waker = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
    signal.signal(signal.SIGCHLD, _wake)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.set_wakeup_fd(waker, warn_on_full_buffer=False)
    own = {name: os.open(f"/proc/self/ns/{name}", os.O_RDONLY | os.O_CLOEXEC) for name in ("net", "uts", "ipc", "pid")}
    poll = select.poll()
    poll.register(requests, select.POLLIN)
    poll.register(woken, select.POLLIN)
    gc.freeze()
    while True:
        ready = {descriptor for descriptor, _ in poll.poll()}
        if woken in ready:
            os.read(woken, 4096)
            _report_ended(requests)
        if requests.fileno() in ready:
            header, descriptors = receive(requests)
            if not header:
                return
            _serve(requests, json.loads(header), descriptors, own)


def _wake(_: int, __: FrameType | None) -> None:
    """Does nothing: a signal reaches the wake-up pipe only if it has a handler."""


def _report_ended(requests: socket.socket) -> None:
    with contextlib.suppress(ChildProcessError):
        while True:
            pid, status = os.waitpid(-1, os.WNOHANG)
            if pid == 0:
                return
            _send(requests, {"ended": pid, "code": _exit_code(status)})


def _exit_code(status: int) -> int:
    return 128 + os.WTERMSIG(status) if os.WIFSIGNALED(status) else os.WEXITSTATUS(status)


def _send(requests: socket.socket, answer: dict[str, Any], descriptors: list[int] | None = None) -> None:
    try:
        socket.send_fds(requests, [json.dumps(answer).encode()], descriptors or [])
    except BrokenPipeError:
        sys.exit(0)  # the devcluster is gone


def _serve(requests: socket.socket, header: dict[str, Any], received: list[int], own: dict[str, int]) -> None:
    given: list[int] = []
    try:
        if header["op"] == "namespaces":
            given = _make_namespaces(str(header["hostname"]), own)
            answer: dict[str, Any] = {}
        else:
            pid = _fork(header, received, own)
            given = [os.pidfd_open(pid)]
            answer = {"pid": pid}
    except OSError as error:
        answer = {"error": [error.errno, error.strerror or str(error)]}
    _send(requests, {"id": header["id"], **answer}, given)
    for descriptor in [*received, *given]:
        os.close(descriptor)


def _make_namespaces(hostname: str, own: dict[str, int]) -> list[int]:
    """Create net, uts and ipc namespaces and a route socket of the new network. Returns descriptors."""
    try:
        syscalls.unshare(POD)
        socket.sethostname(hostname)
        made = [os.open(f"/proc/self/ns/{name}", os.O_RDONLY | os.O_CLOEXEC) for name in ("net", "uts", "ipc")]
        made.append(socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, _ROUTE).detach())
        return made
    finally:
        for name in ("net", "uts", "ipc"):
            syscalls.enter(own[name], 0)


def _fork(header: dict[str, Any], received: list[int], own: dict[str, int]) -> int:
    """Fork a child in a new pid namespace, or in that of the container to join. Returns its pid."""
    try:
        if header["op"] == "join":
            syscalls.enter(received[5], syscalls.CLONE_NEWPID)
        else:
            syscalls.unshare(syscalls.CLONE_NEWPID)
        pid = os.fork()
        if pid == 0:
            _become(header, received)
        return pid
    finally:
        syscalls.enter(own["pid"], syscalls.CLONE_NEWPID)


def _become(header: dict[str, Any], received: list[int]) -> None:
    """In the child: enter the namespaces, build the root, execute the program; never returns.

    The status pipe closes when the program starts; before that, an error is written to it.
    """
    status, order, standard = received[0], received[1], received[2:5]
    code = 127
    try:
        spec = json.loads(os.pread(order, os.fstat(order).st_size, 0))
        signal.set_wakeup_fd(-1)
        for number in (signal.SIGCHLD, signal.SIGINT, signal.SIGPIPE, signal.SIGXFSZ):
            signal.signal(number, signal.SIG_DFL)
        syscalls.die_with_parent()
        os.umask(0o022)
        if header["op"] == "join":
            syscalls.enter(received[5], POD | syscalls.CLONE_NEWNS)
        else:
            for namespace in received[5:]:
                syscalls.enter(namespace, 0)
            syscalls.unshare(syscalls.CLONE_NEWNS)
            rootfs.build(spec["staging"], spec["mounts"], spec["shown"], spec["hidden"])
        _enter_directory(spec["directory"])
        if spec["read_only"] and header["op"] != "join":
            rootfs.make_read_only()
        syscalls.keep_capabilities(spec["capabilities"])
        os.setsid()
        for number, descriptor in enumerate(standard):
            os.dup2(descriptor, number)
        os.execvpe(spec["argv"][0], spec["argv"], spec["environment"])  # noqa: S606 - the purpose of this process
    except OSError as error:
        os.write(status, json.dumps([error.errno, error.strerror or str(error)]).encode())
    except BaseException as error:  # noqa: BLE001 - anything that got out would run the parent's loop in the child
        os.write(status, json.dumps([0, repr(error)]).encode())
    finally:
        os._exit(code)


def _enter_directory(path: str) -> None:
    """Enter the working directory; create a missing one, as container runtimes do."""
    try:
        os.chdir(path)
    except FileNotFoundError:
        os.makedirs(path)  # noqa: PTH103 - next to no imports
        os.chdir(path)


if __name__ == "__main__":
    main()
