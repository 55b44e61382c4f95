"""Parses heads of HTTP/1.1 requests and encodes responses (RFC 9112).

The API server always sends the length of a body. Chunked and compressed bodies are refused, because their size is
unknown until they are read.
"""

from __future__ import annotations

import re
from collections.abc import Awaitable, Callable
from http import HTTPStatus

import msgspec

from shared.errors import MeshlogError


class HttpRequest(msgspec.Struct, frozen=True):
    """A complete request."""

    source: str
    """IP address of the client."""
    body: bytes


Handler = Callable[[HttpRequest], Awaitable[bytes]]
"""Answers with JSON. Raises `BadInputError` if the body cannot be answered."""


class HttpRequestRefusedError(MeshlogError):
    """A request that is refused: with a status, and a word to count it by."""

    def __init__(self, status: HTTPStatus, word: str, sentence: str) -> None:
        super().__init__(f"inject/{word}", sentence)
        self.status = status
        self.word = word


class HttpRequestHead(msgspec.Struct, frozen=True):
    """The used part of a request's head."""

    path: str
    length: int
    """Length of the body in bytes."""
    keep: bool
    """Whether the connection may carry another request."""
    expects: bool
    """Whether the client waits for `100 Continue`."""


_MOST_FIELDS = 100
_LINE = re.compile(r"([!-~]+) (/[!-~]*) HTTP/1\.([01])")
_FIELD = re.compile(r"([!#$%&'*+.^_`|~0-9A-Za-z-]+):[ \t]*([^\x00-\x08\x0a-\x1f\x7f]*)")


def read_head(raw: bytes) -> HttpRequestHead:
    """Parse the head of a request. Raises `HttpRequestRefusedError`."""
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
    """Encode a response."""
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
