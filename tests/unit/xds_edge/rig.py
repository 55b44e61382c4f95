"""A connection of the server with a client played by `h2`, and a network between them that carries at once."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable
from typing import Any

from h2.config import H2Configuration
from h2.connection import H2Connection
from h2.events import Event

from services.xds_edge.errors import Code, StreamRefusedError
from services.xds_edge.http2.call import GrpcCall, Handler
from services.xds_edge.http2.connection import Http2Connection
from services.xds_edge.http2.keepalive import Http2Limits
from services.xds_edge.limits.memory_ledger import MemoryLedger
from services.xds_edge.limits.pod_usage import PodLimits, PodUsage
from shared.timing.token_bucket import TokenBucket
from tests.waiting import eventually

HEADERS = [
    (":method", "POST"),
    (":scheme", "https"),
    (":path", "/service/method"),
    (":authority", "edge"),
    ("content-type", "application/grpc"),
]


class Wire(asyncio.Transport):
    """The network between the two: what the server writes arrives at once."""

    def __init__(self) -> None:
        super().__init__()
        self.written = b""
        self.closed = self.aborted = False
        self.reading = True

    def set_write_buffer_limits(self, high: int | None = None, low: int | None = None) -> None:
        pass

    def write(self, data: Any) -> None:
        assert not self.closed, "nothing is written after the end"
        self.written += data

    def close(self) -> None:
        self.closed = True

    def abort(self) -> None:
        self.closed = self.aborted = True

    def is_closing(self) -> bool:
        return self.closed

    def is_reading(self) -> bool:
        return self.reading

    def pause_reading(self) -> None:
        self.reading = False

    def resume_reading(self) -> None:
        self.reading = True

    def get_extra_info(self, name: str, default: object = None) -> object:
        assert name in {"peername", "ssl_object"}
        return default


class Rig:
    """A connection and its client."""

    def __init__(
        self,
        limits: Http2Limits | None = None,
        *,
        chance: float = 0.5,
        known: bool = True,
        ledger: MemoryLedger | None = None,
        address_allowance: TokenBucket | None = None,
    ) -> None:
        """`known`: whether calls show a good token; else they are refused."""
        self.calls: list[GrpcCall] = []
        self.aged = 0
        self.closed = 0
        self.ends: Counter[str] = Counter()
        self.wire = Wire()
        self.known = known
        self.account = PodUsage(PodLimits(), asyncio.get_running_loop().time())
        self.server = Http2Connection(
            self._route,
            limits or Http2Limits(),
            ledger=ledger,
            address_allowance=address_allowance,
            closed=lambda _: self._note("closed"),
            aged=lambda _: self._note("aged"),
            note=self._end,
            chance=lambda: chance,
        )
        self.client = H2Connection(H2Configuration(client_side=True, header_encoding="utf-8"))
        self.client.initiate_connection()
        self.events: list[Event] = []
        self.server.connection_made(self.wire)
        self.pump()

    def _end(self, reason: str) -> None:
        self.ends[reason] += 1

    def _route(self, call: GrpcCall) -> Handler:
        if not self.known:
            raise StreamRefusedError(Code.UNAUTHENTICATED, "token/missing", "there is no token")
        call.prove(self.account)
        return self._handle

    def _note(self, what: str) -> None:
        setattr(self, what, getattr(self, what) + 1)

    async def _handle(self, call: GrpcCall) -> None:
        self.calls.append(call)
        while (message := await call.read()) is not None:
            await call.write(message)

    def pump(self) -> list[Event]:
        """Exchange bytes until both sides are done; returns the events of the client."""
        heard: list[Event] = []
        while True:
            said, self.wire.written = self.wire.written, b""
            if said:
                heard += self.client.receive_data(said)
            asked = self.client.data_to_send()
            if asked and not self.wire.closed:
                self.server.data_received(asked)
            if not said and not asked:
                self.events += heard
                return heard

    async def heard(self, kind: type[Event]) -> Event:
        def found() -> Event | None:
            self.pump()
            return next((event for event in self.events if isinstance(event, kind)), None)

        return await eventually(found, within=5, what=kind.__name__)

    async def until(self, condition: Callable[[], object], *, what: str) -> None:
        """Let both sides talk until this holds."""
        await eventually(lambda: (self.pump(), condition())[1], within=10, what=what)

    def open(self, stream: int = 1, headers: list[tuple[str, str]] = HEADERS) -> None:
        self.client.send_headers(stream, headers)
        self.pump()

    def say(self, message: bytes, stream: int = 1) -> None:
        self.client.send_data(stream, b"\0" + len(message).to_bytes(4, "big") + message)
        self.pump()

    def shout(self, content: bytes) -> None:
        """Send bytes as they are, whether anything reads them or not."""
        self.server.data_received(content)

    def lose(self) -> None:
        self.server.connection_lost(None)
