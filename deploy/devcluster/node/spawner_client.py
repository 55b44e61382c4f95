"""The devcluster's end of the spawner: asks for namespaces and processes, hears of every end.

Each process is held by a pidfd that the spawner opened before it could reap it: a signal or an `exec` can never hit a
stranger that got the same number.
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
"""Requests under way; more than a hundred would not fit into the socket's buffer."""
_HARMLESS = {
    signal.SIGCHLD, signal.SIGCONT, signal.SIGURG, signal.SIGWINCH, signal.SIGSTOP, signal.SIGTSTP, signal.SIGTTIN,
    signal.SIGTTOU,
}  # fmt: skip
"""Signals whose default is not to end the process."""


class ProcessSpec(msgspec.Struct, frozen=True):
    """What the spawner's child needs to become a container's process."""

    argv: Sequence[str]
    environment: Mapping[str, str]
    directory: str = "/"
    staging: str = ""
    mounts: Sequence[tuple[str, str, bool]] = ()
    shown: Sequence[str] = ()
    """Paths of the machine that the container sees, read-only."""
    hidden: str = ""
    """A directory of the machine that it never sees."""
    read_only: bool = False
    """Nor may it write outside its volumes."""
    capabilities: Sequence[int] = ()
    """Numbers of those that the program may have."""


class ContainerProcess:
    """One process that the spawner started; see `deploy.devcluster.runtime.Process`."""

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
        """It has not ended yet, as far as is known."""
        return not self._ended.done()

    def when_ended(self, tell: Callable[[], None]) -> None:
        """Call `tell` once, after the process has ended."""
        self._ended.add_done_callback(lambda _: tell())

    async def wait(self) -> int:
        """Exit code; 128 + N if signal N ended it."""
        code = await asyncio.shield(self._ended)
        return code if self._reported is None or code != 128 + signal.SIGKILL else self._reported

    def signal(self, number: int) -> None:
        """Signal the process; gone already: nothing happens.

        The kernel shields pid 1 of a namespace from signals that it has no handler for. A program that does not
        care would sit out its grace period, so what would end an ordinary process ends it here too, and `wait`
        tells the number that was sent.
        """
        if not self.running:
            return
        if number not in _HARMLESS and number != signal.SIGKILL and self._would_ignore(number):
            self._reported = 128 + number
            number = signal.SIGKILL
        with contextlib.suppress(ProcessLookupError):
            signal.pidfd_send_signal(self.pidfd, number)

    def _would_ignore(self, number: int) -> bool:
        """It neither handles the signal nor chose to ignore or block it."""
        try:
            # Not by our own number: where no fresh /proc was granted, it counts processes as the host does.
            known_as = _field(Path(f"/proc/self/fdinfo/{self.pidfd}"), "Pid:")[0]
            lines = Path(f"/proc/{known_as}/status").read_text().splitlines()
        except (FileNotFoundError, ProcessLookupError):
            return False
        masks = [line.split()[1] for line in lines if line.startswith(("SigBlk:", "SigIgn:", "SigCgt:"))]
        return not any(int(mask, 16) >> (number - 1) & 1 for mask in masks)


def _field(path: Path, name: str) -> list[str]:
    return [line.removeprefix(name).strip() for line in path.read_text().splitlines() if line.startswith(name)]


class Spawner:
    """The spawner process and the conversation with it."""

    def __init__(self, on_lost: Callable[[], None]) -> None:
        """`on_lost` is called once if the spawner ends although nobody closed it: nothing can be started any more."""
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
        """Net, uts and ipc namespaces of a new pod, and a route socket of its network, as descriptors."""
        _, descriptors = await self._ask({"op": "namespaces", "hostname": hostname}, [])
        return descriptors

    async def start(
        self, order: ProcessSpec, standard: tuple[int, int, int], namespaces: Sequence[int]
    ) -> ContainerProcess:
        """A container in these namespaces (of a pod), with these standard descriptors; they stay the caller's.

        Raises `OSError` if it cannot be executed.
        """
        return await self._spawn("start", order, standard, namespaces)

    async def join(
        self, order: ProcessSpec, standard: tuple[int, int, int], container: ContainerProcess
    ) -> ContainerProcess:
        """One more process inside a running container."""
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
        """What the child has to say before it becomes the program: nothing, if it does."""
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
            told, received = await answer
        if "error" in told:
            raise OSError(*told["error"])
        return told, received

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
            told = json.loads(datagram)
            if "ended" in told:
                # The spawner tells of a start before it can tell of its end: the future is there.
                ended = self._ended.pop(told["ended"], None)
                if ended is not None:
                    ended.set_result(told["code"])
                continue
            if "pid" in told:
                # It travels with the answer: whoever waits may wake after the end was told, too.
                told["ended"] = self._ended[told["pid"]] = self._loop.create_future()
            answer = self._answers.pop(told["id"])
            if answer.cancelled():
                self._disown(told, descriptors)
            else:
                answer.set_result((told, descriptors))

    def _disown(self, told: dict[str, Any], descriptors: list[int]) -> None:
        """Nobody waits for this answer any more: what it brought must not stay."""
        if "pid" in told:
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
        """End the spawner, and with it whatever it started that still runs."""
        self._on_lost = lambda: None
        self._child.kill()
        await asyncio.to_thread(self._child.wait)
        if self._socket.fileno() >= 0:
            self._read()
