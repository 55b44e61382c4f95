"""`start`, `down` and `status` of an embedded mesh, called on the host.

Failures that a user can fix (a port in use, a second mesh, a missing kernel feature) raise `BadInputError` and leave
nothing behind.
"""

from __future__ import annotations

import contextlib
import errno
import json
import os
import select
import signal
import socket
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from deploy.devcluster.launch.statedir import StateDir, hold
from shared.errors import BadInputError, MeshlogError
from shared.service.interpreter import module

_DOWN_SECONDS = 12.0
_LOG_LINES = 5


class LaunchedMesh:
    """A mesh that this process has started."""

    def __init__(self, state: StateDir, launcher: subprocess.Popen[bytes], tether: int | None) -> None:
        self.state_dir = state.path
        self.facts: dict[str, Any] = {}
        """Facts that the devcluster reported when it was ready."""
        self.listeners: dict[str, tuple[str, int]] = {}
        """Addresses on the host by name; port 0 is replaced by the real port."""
        self._launcher = launcher
        self._tether = tether

    @property
    def pid(self) -> int:
        """The launcher's pid."""
        return self._launcher.pid

    def wait(self, timeout: float | None = None) -> int:
        """Wait for the end of the mesh. Returns its exit code. Raises `TimeoutError` after `timeout` seconds."""
        try:
            return self._launcher.wait(timeout)
        except subprocess.TimeoutExpired as error:
            raise TimeoutError("the mesh still runs") from error

    def stop(self) -> None:
        """End the mesh and wait until all its processes have ended."""
        down(self.state_dir)
        self._launcher.wait()
        if self._tether is not None:
            os.close(self._tether)
            self._tether = None


def start(
    state_dir: Path,
    argv: Sequence[str],
    *,
    listeners: Mapping[str, tuple[str, int]],
    detached: bool = True,
    progress: Callable[[str], None] | None = None,
    within: float = 60.0,
) -> LaunchedMesh:
    """Start a mesh and wait until it is ready.

    `argv` is the devcluster's command line; it takes over the sockets with `handover.Handover.from_environment()`.
    `listeners` are TCP addresses of the host to listen on (port 0: any). A mesh that is not `detached` ends with this
    process, however this process ends. `progress` gets a sentence for each step. Raises `BadInputError` for what the
    user can change, `MeshlogError` if it does not get ready `within` seconds or ends before; nothing is left running.
    """
    state = StateDir(state_dir)
    state.make()
    with contextlib.ExitStack() as opened:
        lock = state.lock()
        opened.callback(os.close, lock)
        _wait_for_predecessor(state)
        state.forget()
        bound = {name: opened.enter_context(_listen(name, *address)) for name, address in listeners.items()}
        control = opened.enter_context(_listen_on_path(state.control))
        told, ready = os.pipe2(os.O_CLOEXEC)
        opened.callback(os.close, told)
        held, tether = os.pipe2(os.O_CLOEXEC) if not detached else (None, None)
        addresses = {name: made.getsockname()[:2] for name, made in bound.items()}
        spec: dict[str, Any] = {
            "state_dir": str(state.path),
            "argv": list(argv),
            "listeners": {name: made.fileno() for name, made in bound.items()},
            "control": control.fileno(),
            "ready": ready,
            "tether": held,
            "lock": lock,
            "record": {"listeners": addresses, "since": time.time(), "argv": list(argv)},
        }
        passed = [lock, control.fileno(), ready, *(made.fileno() for made in bound.values())]
        if held is not None:
            passed.append(held)
        with state.log.open("ab") as log:
            launcher = subprocess.Popen(  # noqa: S603 - our own interpreter, our own module
                module("deploy.devcluster.launch.launcher", json.dumps(spec)),
                pass_fds=passed,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        os.close(ready)
        if held is not None:
            os.close(held)
        mesh = LaunchedMesh(state, launcher, tether)
        mesh.listeners = {name: (str(host), int(port)) for name, (host, port) in addresses.items()}
        try:
            mesh.facts = _await_ready(told, state, progress or (lambda _: None), within)
        except BaseException:
            launcher.terminate()
            mesh.stop()
            raise
        return mesh


def down(state_dir: Path, *, within: float = _DOWN_SECONDS) -> bool:
    """End the mesh of this directory, or what is left of it, and wait until all its processes have ended.

    Returns False if there was none. Raises `MeshlogError` if a process does not end, even after SIGKILL.
    """
    state = StateDir(state_dir)
    record = state.read() or {}
    holds = [pidfd for pidfd in (hold(record.get("launcher")), hold(record.get("init"))) if pidfd is not None]
    try:
        if not holds:
            if state.path.is_dir() and not state.locked():
                state.forget()
            return False
        # The launcher forwards the signal, and kills pid 1 if it does not end. Pid 1 without launcher dies by itself.
        signal.pidfd_send_signal(holds[0], signal.SIGTERM)
        if not _gone(holds, within):
            for pidfd in holds:
                with contextlib.suppress(ProcessLookupError):
                    signal.pidfd_send_signal(pidfd, signal.SIGKILL)
            if not _gone(holds, within):
                raise MeshlogError("down/stuck", "its processes do not end, even killed", about=str(state.path))
        state.forget()
        return True
    finally:
        for pidfd in holds:
            os.close(pidfd)


def status(state_dir: Path) -> dict[str, Any]:
    """`running`, and for a running mesh `pid` (of the launcher), `since` (Unix time), `listeners`, `log`."""
    state = StateDir(state_dir)
    record = state.read()
    pidfd = hold(record.get("launcher")) if record is not None else None
    if record is None or pidfd is None:
        return {"running": False}
    os.close(pidfd)
    return {
        "running": True,
        "pid": record["launcher"]["pid"],
        "since": record["since"],
        "listeners": record["listeners"],
        "log": str(state.log),
    }


def _wait_for_predecessor(state: StateDir) -> None:
    """Wait for processes of a killed mesh, which may still be ending although the lock is free."""
    record = state.read() or {}
    holds = [pidfd for pidfd in (hold(record.get("launcher")), hold(record.get("init"))) if pidfd is not None]
    try:
        if not _gone(holds, _DOWN_SECONDS):
            raise MeshlogError("up/remains", "a killed mesh does not go away", about=str(state.path))
    finally:
        for pidfd in holds:
            os.close(pidfd)


def _gone(pidfds: Sequence[int], within: float) -> bool:
    """True if all processes end in time. Pid 1 ends only after every process of its namespace."""
    deadline = time.monotonic() + within
    left = list(pidfds)
    while left:
        ended, _, _ = select.select(left, [], [], max(0.0, deadline - time.monotonic()))
        if not ended:
            return False
        left = [pidfd for pidfd in left if pidfd not in ended]
    return True


def _listen(name: str, host: str, port: int) -> socket.socket:
    listener = socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET, socket.SOCK_STREAM)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind((host, port))
        listener.listen(1024)
    except OSError as error:
        listener.close()
        reason = "is in use by another program" if error.errno == errno.EADDRINUSE else f"cannot be used: {error}"
        raise BadInputError("up/port", f"port {port} on {host} ({name}) {reason}; choose another") from error
    listener.setblocking(False)
    return listener


def _listen_on_path(path: Path) -> socket.socket:
    """A socket with mode 0600. The address uses /proc, because socket paths are limited to 107 bytes."""
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    directory = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        listener.bind(f"/proc/self/fd/{directory}/{path.name}")
    finally:
        os.close(directory)
    path.chmod(0o600)
    listener.listen(64)
    listener.setblocking(False)
    return listener


def _await_ready(told: int, state: StateDir, progress: Callable[[str], None], within: float) -> dict[str, Any]:
    deadline = time.monotonic() + within
    rest = b""
    while True:
        readable, _, _ = select.select([told], [], [], max(0.0, deadline - time.monotonic()))
        if not readable:
            raise MeshlogError("up/slow", f"not ready within {within:g} s; its log is {state.log}")
        part = os.read(told, 65536)
        if not part:
            raise MeshlogError("up/ended", f"ended before it was ready: {_last_words(state.log)}")
        *lines, rest = (rest + part).split(b"\n")
        for line in lines:
            message = json.loads(line)
            if "failed" in message:
                raise BadInputError(message["failed"]["code"], message["failed"]["sentence"])
            if "ready" in message:
                return message["ready"]
            progress(message["progress"])


def _last_words(log: Path) -> str:
    lines = log.read_bytes()[-4096:].decode(errors="replace").strip().splitlines()[-_LOG_LINES:]
    return " | ".join(lines) or "it said nothing"
