"""The client of the spawner: requests namespaces and processes, and receives exit codes.

Each process has a pidfd that the spawner opened before it could reap the process: a signal or an `exec` never reaches
another process that reuses the pid.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
import socket
import subprocess
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import msgspec

from deploy.devcluster.node.fd_passing import receive
from shared.service.interpreter import module

_MOST_UNANSWERED = 32
"""Concurrent requests; more than a hundred would exceed the socket's buffer."""
_HARMLESS = {
    signal.SIGCHLD, signal.SIGCONT, signal.SIGURG, signal.SIGWINCH, signal.SIGSTOP, signal.SIGTSTP, signal.SIGTTIN,
    signal.SIGTTOU,
}  # fmt: skip
"""Signals whose default action does not end the process."""


class ProcessSpec(msgspec.Struct, frozen=True):
    """The process that the spawner's child executes."""

    argv: Sequence[str]
    environment: Mapping[str, str]
    directory: str = "/"
    staging: str = ""
    mounts: Sequence[tuple[str, str, bool]] = ()
    shown: Sequence[str] = ()
    """Paths of the machine that are visible read-only."""
    hidden: str = ""
    """A directory of the machine that is invisible."""
    read_only: bool = False
    """Whether only volumes are writable."""
    capabilities: Sequence[int] = ()
    """Numbers of the permitted capabilities."""


class ContainerProcess:
    """A process of the spawner; implements `deploy.devcluster.runtime.Process`."""

    def __init__(self, pid: int, pidfd: int, ended: asyncio.Future[int]) -> None:
        self._pid = pid
        self.pidfd = pidfd
        self._ended = ended
        self._reported: int | None = None
        ended.add_done_callback(lambda _: os.close(pidfd))

    @property
    def pid(self) -> int:
        """Its pid in the devcluster's pid namespace."""
        return self._pid

    @property
    def running(self) -> bool:
        """True if no exit code was received yet."""
        return not self._ended.done()

    def when_ended(self, callback: Callable[[], None]) -> None:
        """Call `callback` once after the process has ended."""
        self._ended.add_done_callback(lambda _: callback())

    async def wait(self) -> int:
        """Exit code; 128 + N if signal N ended it."""
        code = await asyncio.shield(self._ended)
        return code if self._reported is None or code != 128 + signal.SIGKILL else self._reported

    def signal(self, number: int) -> None:
        """Signal the process; nothing happens if it has ended.

        The kernel ignores signals to pid 1 of a namespace that have no handler, so a program without handlers would use
        up its grace period. Therefore a signal that would end an ordinary process is replaced by SIGKILL, and `wait`
        returns the number of the original signal.
        """
        if not self.running:
            return
        if number not in _HARMLESS and number != signal.SIGKILL and self._would_ignore(number):
            self._reported = 128 + number
            number = signal.SIGKILL
        with contextlib.suppress(ProcessLookupError):
            signal.pidfd_send_signal(self.pidfd, number)

    def _would_ignore(self, number: int) -> bool:
        """True if the process neither handles, ignores nor blocks the signal."""
        try:
            # Not `self._pid`: if no new /proc is permitted, /proc shows the host's pids.
            known_as = _field(Path(f"/proc/self/fdinfo/{self.pidfd}"), "Pid:")[0]
            lines = Path(f"/proc/{known_as}/status").read_text().splitlines()
        except (FileNotFoundError, ProcessLookupError):
            return False
        masks = [line.split()[1] for line in lines if line.startswith(("SigBlk:", "SigIgn:", "SigCgt:"))]
        return not any(int(mask, 16) >> (number - 1) & 1 for mask in masks)


def _field(path: Path, name: str) -> list[str]:
    return [line.removeprefix(name).strip() for line in path.read_text().splitlines() if line.startswith(name)]


class Spawner:
    """The spawner process and the connection to it."""

    def __init__(self, on_lost: Callable[[], None]) -> None:
        """`on_lost` is called once if the spawner ends without `close`: no process can be started any more."""
        self._loop = asyncio.get_running_loop()
        self._on_lost = on_lost
        self._socket, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self._socket.setblocking(False)
        descriptor = theirs.fileno()
        self._child = subprocess.Popen(  # noqa: S603 - our own interpreter, our own module
            module("deploy.devcluster.node.spawner", str(descriptor)),
            pass_fds=(descriptor,),
            stdin=subprocess.DEVNULL,
        )
        theirs.close()
        self._number = 0
        self._room = asyncio.Semaphore(_MOST_UNANSWERED)
        self._answers: dict[int, asyncio.Future[tuple[dict[str, Any], list[int]]]] = {}
        self._ended: dict[int, asyncio.Future[int]] = {}
        self._loop.add_reader(self._socket.fileno(), self._read)

    @property
    def pid(self) -> int:
        """The spawner's own pid."""
        return self._child.pid

    async def namespaces(self, hostname: str) -> list[int]:
        """Create net, uts and ipc namespaces of a pod and a route socket of its network. Returns descriptors."""
        _, descriptors = await self._ask({"op": "namespaces", "hostname": hostname}, [])
        return descriptors

    async def start(
        self, order: ProcessSpec, standard: tuple[int, int, int], namespaces: Sequence[int]
    ) -> ContainerProcess:
        """Start a container in the namespaces of a pod, on these descriptors, which the caller closes.

        Raises `OSError` if it cannot be executed.
        """
        return await self._spawn("start", order, standard, namespaces)

    async def join(
        self, order: ProcessSpec, standard: tuple[int, int, int], container: ContainerProcess
    ) -> ContainerProcess:
        """Start another process in a running container. Raises `OSError`."""
        if not container.running:
            raise ProcessLookupError("the container is not running")
        return await self._spawn("join", order, standard, [container.pidfd])

    async def _spawn(
        self, operation: str, order: ProcessSpec, standard: tuple[int, int, int], more: Sequence[int]
    ) -> ContainerProcess:
        failed, status = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
        memory = os.memfd_create("order", os.MFD_CLOEXEC)
        try:
            try:
                with open(memory, "wb", closefd=False) as page:  # noqa: ASYNC230 - memory, not a disk
                    page.write(msgspec.json.encode(order))
                answer, descriptors = await self._ask({"op": operation}, [status, memory, *standard, *more])
            finally:
                os.close(status)
                os.close(memory)
            pid = int(answer["pid"])
            process = ContainerProcess(pid, descriptors[0], answer["ended"])
            refusal = await self._read_to_end(failed)
        finally:
            os.close(failed)
        if refusal:
            number, reason = json.loads(refusal)
            await process.wait()
            raise OSError(number, f"{order.argv[0]}: {reason}")
        return process

    async def _read_to_end(self, descriptor: int) -> bytes:
        """The error that the child writes before it executes the program; empty on success."""
        done: asyncio.Future[None] = self._loop.create_future()
        parts: list[bytes] = []

        def readable() -> None:
            try:
                part = os.read(descriptor, 65536)
            except BlockingIOError:
                return
            if part:
                parts.append(part)
            elif not done.done():
                done.set_result(None)

        self._loop.add_reader(descriptor, readable)
        try:
            await done
        finally:
            self._loop.remove_reader(descriptor)
        return b"".join(parts)

    async def _ask(self, request: dict[str, Any], descriptors: Sequence[int]) -> tuple[dict[str, Any], list[int]]:
        async with self._room:
            self._number += 1
            request["id"] = self._number
            answer = self._answers[self._number] = self._loop.create_future()
            socket.send_fds(self._socket, [json.dumps(request).encode()], list(descriptors))
            response, received = await answer
        if "error" in response:
            raise OSError(*response["error"])
        return response, received

    def _read(self) -> None:
        while True:
            try:
                datagram, descriptors = receive(self._socket)
            except BlockingIOError:
                return
            except ConnectionResetError:
                datagram, descriptors = b"", []
            if not datagram:
                self._lost()
                return
            message = json.loads(datagram)
            if "ended" in message:
                # The spawner reports a start before its end, so the future exists.
                ended = self._ended.pop(message["ended"], None)
                if ended is not None:
                    ended.set_result(message["code"])
                continue
            if "pid" in message:
                # Passed with the response: the waiting task may resume only after the end was reported.
                message["ended"] = self._ended[message["pid"]] = self._loop.create_future()
            answer = self._answers.pop(message["id"])
            if answer.cancelled():
                self._disown(message, descriptors)
            else:
                answer.set_result((message, descriptors))

    def _disown(self, message: dict[str, Any], descriptors: list[int]) -> None:
        """The request was cancelled: end the process and close the descriptors of its response."""
        if "pid" in message:
            signal.pidfd_send_signal(descriptors[0], signal.SIGKILL)
        for descriptor in descriptors:
            os.close(descriptor)

    def _lost(self) -> None:
        self._loop.remove_reader(self._socket.fileno())
        self._socket.close()
        for answer in self._answers.values():
            if not answer.done():
                answer.set_exception(OSError("the spawner is gone"))
        for ended in self._ended.values():
            ended.set_result(128 + signal.SIGKILL)  # its children die with it
        self._answers.clear()
        self._ended.clear()
        self._on_lost()

    async def close(self) -> None:
        """End the spawner and all its processes."""
        self._on_lost = lambda: None
        self._child.kill()
        await asyncio.to_thread(self._child.wait)
        if self._socket.fileno() >= 0:
            self._read()
