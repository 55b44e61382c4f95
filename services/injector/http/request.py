"""Requests of the webhook's HTTP/1.1: their heads, what refuses one, and the answers as bytes. RFC 9112. Pure.

The API server always sends a body with its length. Chunked and compressed bodies are refused: neither can be bounded
without reading it.
"""

from __future__ import annotations

import re
from collections.abc import Awaitable, Callable
from http import HTTPStatus

import msgspec

from services.injector.http import connection_gate, fair_slots
from shared.errors import MeshlogError


class HttpLimits(msgspec.Struct, frozen=True, kw_only=True):
    """What one request and one connection may cost."""

    connections: connection_gate.ConnectionLimits = connection_gate.ConnectionLimits()
    hello_seconds: float = 5.0
    """Until a client begins TLS."""
    handshakes: fair_slots.SlotLimits = fair_slots.SlotLimits(
        slots=64, slots_of_source=16, waiting=512, waiting_of_source=256, waiting_of_namespace=256, seconds=5.0
    )
    """Handshakes under way; each takes the processor for a millisecond."""
    handshake_seconds: float = 3.0
    idle_seconds: float = 120.0
    """Without a request; longer than the 90 s after which Go's client closes a connection, so that it does."""
    first_seconds: float = 10.0
    """The same for a connection that has not made a request yet."""
    head_bytes: int = 16 * 1024
    head_seconds: float = 5.0
    """From a request's first byte to the end of its head."""
    body_bytes: int = 5 * 1024 * 1024
    large_bytes: int = 64 * 1024
    """Bodies above this size share `large`."""
    large: fair_slots.SlotLimits = fair_slots.SlotLimits(
        slots=4, slots_of_source=2, waiting=64, waiting_of_source=16, seconds=4.0
    )
    body_seconds: float = 2.0
    """For a body, besides a second for each MiB of it."""
    answer_seconds: float = 5.0
    """Until the other side has taken the answer."""
    linger_seconds: float = 2.0
    """After a refusal, for the other side to stop sending and read it."""


class HttpRequest(msgspec.Struct, frozen=True):
    """A whole request."""

    source: str
    """Address of its sender."""
    body: bytes


Handler = Callable[[HttpRequest], Awaitable[bytes]]
"""Answers with JSON. Raises `BadInputError` if the body cannot be answered."""


class HttpRequestRefusedError(MeshlogError):
    """A request that is not answered: a status, and a word to count it by."""

    def __init__(self, status: HTTPStatus, word: str, sentence: str) -> None:
        super().__init__(f"inject/{word}", sentence)
        self.status = status
        self.word = word


class HttpRequestHead(msgspec.Struct, frozen=True):
    """What counts of a request's head."""

    path: str
    length: int
    """Of the body, bytes."""
    keep: bool
    """Whether the connection may carry another request."""
    expects: bool
    """Whether the sender waits for `100 Continue`."""


_MOST_FIELDS = 100
_LINE = re.compile(r"([!-~]+) (/[!-~]*) HTTP/1\.([01])")
_FIELD = re.compile(r"([!#$%&'*+.^_`|~0-9A-Za-z-]+):[ \t]*([^\x00-\x08\x0a-\x1f\x7f]*)")


def read_head(raw: bytes) -> HttpRequestHead:
    """The head of a request that can be read. Raises `HttpRequestRefusedError`."""
    line, *lines = raw[:-4].decode("latin-1").split("\r\n")
    request = _LINE.fullmatch(line)
    fields = [_FIELD.fullmatch(each) for each in lines]
    if request is None or not all(fields) or len(fields) > _MOST_FIELDS:
        raise HttpRequestRefusedError(HTTPStatus.BAD_REQUEST, "malformed", "this is no request of HTTP/1.1")
    given: dict[str, list[str]] = {}
    for field in fields:
        assert field is not None
        given.setdefault(field[1].lower(), []).append(field[2].strip())
    if request[1] != "POST":
        raise HttpRequestRefusedError(HTTPStatus.METHOD_NOT_ALLOWED, "method", "reviews are sent by POST")
    if "transfer-encoding" in given or "content-length" not in given:
        raise HttpRequestRefusedError(HTTPStatus.LENGTH_REQUIRED, "length", "a review is sent with its Content-Length")
    if any(each.lower() != "identity" for each in given.get("content-encoding", ())):
        raise HttpRequestRefusedError(
            HTTPStatus.UNSUPPORTED_MEDIA_TYPE, "encoding", "a review is sent without a Content-Encoding"
        )
    lengths = set(given["content-length"])
    length = lengths.pop()
    if lengths or not re.fullmatch(r"[0-9]{1,12}", length):
        raise HttpRequestRefusedError(HTTPStatus.BAD_REQUEST, "malformed", "Content-Length is no number of bytes")
    closes = request[3] == "0" or "close" in ",".join(given.get("connection", ())).lower()
    return HttpRequestHead(
        path=request[2].partition("?")[0],
        length=int(length),
        keep=not closes,
        expects="100-continue" in ",".join(given.get("expect", ())).lower(),
    )


def response(status: HTTPStatus, body: bytes, *, keep: bool, json: bool = False) -> bytes:
    """An answer as bytes."""
    lines = [
        f"HTTP/1.1 {status.value} {status.phrase}",
        f"Content-Type: {'application/json' if json else 'text/plain; charset=utf-8'}",
        f"Content-Length: {len(body)}",
    ]
    if not keep:
        lines.append("Connection: close")
    if status in {HTTPStatus.SERVICE_UNAVAILABLE, HTTPStatus.TOO_MANY_REQUESTS}:
        lines.append("Retry-After: 1")
    return "\r\n".join([*lines, "", ""]).encode("latin-1") + body
