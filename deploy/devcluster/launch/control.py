"""The control socket: commands on the host call operations of the devcluster that the Kubernetes API lacks.

A message is one JSON object, with optional file descriptors. The first message of a connection names the operation.
`exec` is implemented here, because it passes the caller's terminal into the pod; other modules register handlers.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import os
import signal
import socket
import sys
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from pathlib import Path
from types import FrameType
from typing import Any

from deploy.devcluster.launch.statedir import CONTROL
from deploy.devcluster.node.fd_passing import MOST_BYTES, receive
from deploy.devcluster.runtime import Process
from shared.errors import BadInputError, MeshlogError

_log = logging.getLogger(__name__)
_FORWARDED = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT, signal.SIGWINCH)

Starter = Callable[[dict[str, Any], tuple[int, int, int]], Awaitable[Process]]
"""Starts the command of an `exec` request (`namespace`, `pod`, `container`, `argv`, `environment`) on these
descriptors, which the caller closes. Raises `MeshlogError` for an unknown pod, `OSError` for an invalid command."""


class ControlConnection:
    """The server side of one connection."""

    def __init__(self, connection: socket.socket, request: dict[str, Any], descriptors: list[int]) -> None:
        self._connection = connection
        self.request = request
        """The first message."""
        self.descriptors = descriptors
        """Descriptors of the first message; closed when the handler returns."""

    async def send(self, message: Mapping[str, Any]) -> None:
        """Send a message. Raises `ConnectionError` if the peer is gone."""
        await asyncio.get_running_loop().sock_sendall(self._connection, json.dumps(message).encode())

    async def receive(self) -> dict[str, Any] | None:
        """Returns the next message, or None if the peer is gone."""
        try:
            message = await asyncio.get_running_loop().sock_recv(self._connection, MOST_BYTES)
        except ConnectionError:
            return None
        return json.loads(message) if message else None


Handler = Callable[[ControlConnection], Awaitable[None]]


class ControlServer:
    """Serves the control socket; dispatches by operation."""

    def __init__(self, listener: socket.socket) -> None:
        """`listener` comes from `handover.Handover.control`."""
        self._listener = listener
        self._handlers: dict[str, Handler] = {}
        self._tasks: set[asyncio.Task[None]] = set()

    def register(self, operation: str, handler: Handler) -> None:
        """Register the handler of requests with `{"op": operation}`. A raised `MeshlogError` is sent to the client."""
        self._handlers[operation] = handler

    def register_exec(self, start: Starter) -> None:
        """Register `exec`; `start` starts the command."""

        async def handle(conversation: ControlConnection) -> None:
            await _run_exec(conversation, start)

        self.register("exec", handle)

    async def serve(self) -> None:
        """Accept connections until cancelled."""
        loop = asyncio.get_running_loop()
        try:
            while True:
                connection, _ = await loop.sock_accept(self._listener)
                task = loop.create_task(self._converse(connection))
                self._tasks.add(task)
                task.add_done_callback(self._tasks.discard)
        finally:
            for task in list(self._tasks):
                task.cancel()
            await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _converse(self, connection: socket.socket) -> None:
        connection.setblocking(False)
        descriptors: list[int] = []
        try:
            message, descriptors = await _receive_with_descriptors(connection)
            if not message:
                return
            conversation = ControlConnection(connection, {}, descriptors)
            with contextlib.suppress(ConnectionError):
                await self._answer(conversation, message)
        finally:
            for descriptor in descriptors:
                os.close(descriptor)
            connection.close()

    async def _answer(self, conversation: ControlConnection, message: bytes) -> None:
        try:
            conversation.request = json.loads(message)
            handler = self._handlers.get(str(conversation.request.get("op")), _refuse)
            await handler(conversation)
        except MeshlogError as error:
            bad = isinstance(error, BadInputError)
            await conversation.send({"error": {"code": error.code, "sentence": str(error), "bad_input": bad}})
        except (ValueError, AttributeError, KeyError) as error:
            sentence = f"the request is not understood: {error!r}"
            await conversation.send({"error": {"code": "control/request", "sentence": sentence, "bad_input": True}})
        except ConnectionError:
            raise
        except Exception as error:  # noqa: BLE001 - see below
            # A bug, or a failure of the machine: log the traceback, and do not let the client wait.
            _log.exception("control: %s failed", conversation.request.get("op"))
            sentence = f"it failed inside the devcluster ({error!r}); the devcluster's log says more"
            await conversation.send({"error": {"code": "control/failed", "sentence": sentence, "bad_input": False}})


async def _refuse(conversation: ControlConnection) -> None:
    raise BadInputError("control/op", f"there is no operation {conversation.request.get('op')!r}")


async def _receive_with_descriptors(connection: socket.socket) -> tuple[bytes, list[int]]:
    loop = asyncio.get_running_loop()
    arrived: asyncio.Future[None] = loop.create_future()
    loop.add_reader(connection.fileno(), lambda: arrived.done() or arrived.set_result(None))
    try:
        await arrived
    finally:
        loop.remove_reader(connection.fileno())
    try:
        return receive(connection)
    except ConnectionError:
        return b"", []


async def _run_exec(conversation: ControlConnection, start: Starter) -> None:
    if len(conversation.descriptors) != 3:
        raise BadInputError("control/exec", "stdin, stdout and stderr must come with the request")
    first, second, third = conversation.descriptors
    try:
        process = await start(conversation.request, (first, second, third))
    except OSError as error:
        raise BadInputError("exec/command", error.strerror or str(error)) from error
    ended = asyncio.ensure_future(process.wait())
    try:
        while not ended.done():
            received = asyncio.ensure_future(conversation.receive())
            await asyncio.wait({ended, received}, return_when=asyncio.FIRST_COMPLETED)
            if ended.done():
                received.cancel()
                await asyncio.gather(received, return_exceptions=True)
                break
            message = received.result()
            if message is None:
                process.signal(signal.SIGKILL)  # the client is gone
                await ended
                return
            process.signal(int(message["signal"]))
        await conversation.send({"exit": await ended})
    finally:
        ended.cancel()


# -- client, on the host


def ask(state_dir: Path, request: Mapping[str, Any], descriptors: Sequence[int] = ()) -> Iterator[dict[str, Any]]:
    """Send a request. Yields its responses until the devcluster closes the connection.

    Raises `BadInputError` if no mesh runs there, and the `MeshlogError` of the handler.
    """
    with _connect(state_dir) as connection:
        socket.send_fds(connection, [json.dumps(request).encode()], list(descriptors))
        while (answer := _receive_message(connection)) is not None:
            yield answer


def exec_in_pod(
    state_dir: Path,
    namespace: str,
    pod: str,
    container: str,
    argv: Sequence[str],
    *,
    environment: Mapping[str, str] | None = None,
) -> int:
    """Run a command in a pod on this process's stdin, stdout and stderr. Returns its exit code (128 + N for a signal).

    Signals to this process are forwarded, so Ctrl-C ends the command and not the connection. An empty `container` means
    the first of the pod. Must be called in the main thread.
    """
    request = {
        "op": "exec",
        "namespace": namespace,
        "pod": pod,
        "container": container,
        "argv": list(argv),
        "environment": {"TERM": os.environ.get("TERM", "dumb"), **(environment or {})},
    }
    standard = [sys.stdin.fileno(), sys.stdout.fileno(), sys.stderr.fileno()]
    with _connect(state_dir) as connection:

        def forward(number: int, _: FrameType | None) -> None:
            with contextlib.suppress(ConnectionError):
                connection.send(json.dumps({"signal": number}).encode())

        before = {number: signal.signal(number, forward) for number in _FORWARDED}
        try:
            socket.send_fds(connection, [json.dumps(request).encode()], standard)
            answer = _receive_message(connection)
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)
    if answer is None:
        raise MeshlogError("exec/lost", "the mesh ended while the command ran")
    return int(answer["exit"])


def _connect(state_dir: Path) -> socket.socket:
    connection = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    try:
        directory = os.open(state_dir, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            connection.connect(f"/proc/self/fd/{directory}/{CONTROL}")
        finally:
            os.close(directory)
    except (FileNotFoundError, NotADirectoryError, ConnectionRefusedError, PermissionError) as error:
        connection.close()
        raise BadInputError(
            "control/no-mesh", "no mesh of yours runs here; `meshlog up` starts one", about=str(state_dir)
        ) from error
    return connection


def _receive_message(connection: socket.socket) -> dict[str, Any] | None:
    try:
        message = connection.recv(MOST_BYTES)
    except ConnectionError:
        return None
    if not message:
        return None
    answer: dict[str, Any] = json.loads(message)
    if "error" in answer:
        reported = answer["error"]
        raise (BadInputError if reported["bad_input"] else MeshlogError)(reported["code"], reported["sentence"])
    return answer
