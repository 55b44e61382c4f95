"""`start`, `down` and `status` of an embedded mesh, from the host.

What can fail for a reason that a person can change (a port in use, a second mesh, a kernel that will not) fails here
with a `BadInputError`, before or without leaving anything behind.
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
    """A mesh that was started by this process."""

    def __init__(self, state: StateDir, launcher: subprocess.Popen[bytes], tether: int | None) -> None:
        self.state_dir = state.path
        self.facts: dict[str, Any] = {}
        """What the devcluster said when it was ready."""
        self.listeners: dict[str, tuple[str, int]] = {}
        """Addresses on the host, by name; what was asked for as port 0 has its real port."""
        self._launcher = launcher
        self._tether = tether

    @property
    def pid(self) -> int:
        """The launcher's pid."""
        return self._launcher.pid

    def wait(self, timeout: float | None = None) -> int:
        """The exit code of the mesh, when it has ended; `TimeoutError` if it has not in time (seconds)."""
        try:
            return self._launcher.wait(timeout)
        except subprocess.TimeoutExpired as error:
            raise TimeoutError("the mesh still runs") from error

    def stop(self) -> None:
        """End it and wait until everything is gone."""
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
    """Start a mesh and return when it is ready.

    `argv` is the devcluster's command line; it takes over its sockets with `handover.Handover.from_environment()`.
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
    """End the mesh of this directory, whatever is left of it, and wait until all of it is gone.

    False if there was nothing to end. Raises `MeshlogError` if something does not go, even killed.
    """
    state = StateDir(state_dir)
    record = state.read() or {}
    holds = [pidfd for pidfd in (hold(record.get("launcher")), hold(record.get("init"))) if pidfd is not None]
    try:
        if not holds:
            if state.path.is_dir() and not state.locked():
                state.forget()
            return False
        # The launcher passes it on, and kills what does not listen. Pid 1 alone is an orphan about to die.
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
    """The lock is ours, but processes of a killed mesh may still be on their way out."""
    record = state.read() or {}
    holds = [pidfd for pidfd in (hold(record.get("launcher")), hold(record.get("init"))) if pidfd is not None]
    try:
        if not _gone(holds, _DOWN_SECONDS):
            raise MeshlogError("up/remains", "a killed mesh does not go away", about=str(state.path))
    finally:
        for pidfd in holds:
            os.close(pidfd)


def _gone(pidfds: Sequence[int], within: float) -> bool:
    """All these processes have ended. Pid 1 counts as ended only after every process of its namespace is gone."""
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
    """A socket for its owner only. The address goes through /proc, as paths of sockets end at 107 bytes."""
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
