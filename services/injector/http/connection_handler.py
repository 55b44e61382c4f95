"""Serves the requests of a connection one after the other, each bounded in time and bytes before it is read.

A request beyond a limit is answered with a status and a sentence, and the connection ends.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Mapping
from http import HTTPStatus

from services.injector.http.client_access import ClientAccess
from services.injector.http.connection_gate import OpenConnection
from services.injector.http.fair_slots import BusyError, FairSlots
from services.injector.http.limits import HttpLimits
from services.injector.http.request import (
    Handler,
    HttpRequest,
    HttpRequestHead,
    HttpRequestRefusedError,
    read_head,
    response,
)
from shared.errors import BadInputError


class ConnectionHandler:
    """What all connections share; `serve` serves one. `refused(word)` is called at each refusal."""

    def __init__(
        self,
        handlers: Mapping[str, Handler],
        limits: HttpLimits,
        *,
        access: ClientAccess,
        refused: Callable[[str], None],
    ) -> None:
        self._handlers = handlers
        self._limits = limits
        self._access = access
        self._refused = refused
        self._large = FairSlots(limits.large)

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, entry: OpenConnection) -> None:
        """Answer requests until a side ends. Raises `OSError`, `TimeoutError` or `IncompleteReadError`."""
        # `drain` shall return only after the whole answer is sent. With `high` 0 asyncio's TLS would pause for ever.
        writer.transport.set_write_buffer_limits(high=1, low=0)
        wait = self._limits.first_seconds
        while True:
            entry.busy = False
            async with asyncio.timeout(wait):
                first = await reader.read(1)
            if not first:
                return
            entry.busy = True
            try:
                head = await self._head(first, reader)
                self._authenticate(writer)
                await self._answer(head, reader, writer, entry.source)
            except HttpRequestRefusedError as error:
                self._refused(error.word)
                await self._write(writer, response(error.status, f"{error.sentence}\n".encode(), keep=False))
                entry.busy = False
                await self._linger(reader)
                return
            if not head.keep:
                return
            wait = self._limits.idle_seconds

    def _authenticate(self, writer: asyncio.StreamWriter) -> None:
        if not self._access.allows_certificate(writer.get_extra_info("peercert") or {}):
            sentence = f"the client's certificate bears none of the names {', '.join(self._access.names)}"
            raise HttpRequestRefusedError(HTTPStatus.FORBIDDEN, "certificate", sentence)

    async def _head(self, first: bytes, reader: asyncio.StreamReader) -> HttpRequestHead:
        limits = self._limits
        try:
            async with asyncio.timeout(limits.head_seconds):
                raw = first + await reader.readuntil(b"\r\n\r\n")
        except TimeoutError as error:
            sentence = f"the request's head took longer than {limits.head_seconds:g} s"
            raise HttpRequestRefusedError(HTTPStatus.REQUEST_TIMEOUT, "slow", sentence) from error
        except asyncio.LimitOverrunError as error:
            sentence = f"the request's head has more than {limits.head_bytes} bytes"
            raise HttpRequestRefusedError(HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE, "head", sentence) from error
        return read_head(raw)

    async def _answer(
        self, head: HttpRequestHead, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, source: str
    ) -> None:
        limits = self._limits
        handler = self._handlers.get(head.path)
        if handler is None:
            sentence = f"there is nothing here; reviews go to {' and '.join(self._handlers)}"
            raise HttpRequestRefusedError(HTTPStatus.NOT_FOUND, "path", sentence)
        if head.length > limits.body_bytes:
            sentence = f"the body has {head.length} bytes; a review may have {limits.body_bytes}"
            raise HttpRequestRefusedError(HTTPStatus.REQUEST_ENTITY_TOO_LARGE, "body", sentence)
        large = self._large.turn(source) if head.length > limits.large_bytes else contextlib.nullcontext()
        try:
            # A large body holds its slot until the client has received the answer.
            async with large:
                if head.expects:
                    writer.write(b"HTTP/1.1 100 Continue\r\n\r\n")
                body = await self._body(head, reader)
                try:
                    answer = response(
                        HTTPStatus.OK, await handler(HttpRequest(source, body)), keep=head.keep, json=True
                    )
                except BadInputError as error:
                    answer = response(HTTPStatus.BAD_REQUEST, f"{error}\n".encode(), keep=head.keep)
                await self._write(writer, answer)
        except BusyError as error:
            raise HttpRequestRefusedError(HTTPStatus.SERVICE_UNAVAILABLE, "busy", error.sentence) from error

    async def _body(self, head: HttpRequestHead, reader: asyncio.StreamReader) -> bytes:
        seconds = self._limits.body_seconds + head.length / (1024 * 1024)
        try:
            async with asyncio.timeout(seconds):
                return await reader.readexactly(head.length)
        except TimeoutError as error:
            sentence = f"a body of {head.length} bytes took longer than {seconds:.1f} s"
            raise HttpRequestRefusedError(HTTPStatus.REQUEST_TIMEOUT, "slow", sentence) from error

    async def _write(self, writer: asyncio.StreamWriter, answer: bytes) -> None:
        async with asyncio.timeout(self._limits.answer_seconds):
            writer.write(answer)
            await writer.drain()

    async def _linger(self, reader: asyncio.StreamReader) -> None:
        """Read and discard what the client still sends, so that it reads the refusal instead of a reset."""
        unread = 2 * self._limits.body_bytes
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(self._limits.linger_seconds):
                while unread > 0 and (piece := await reader.read(65536)):
                    unread -= len(piece)
