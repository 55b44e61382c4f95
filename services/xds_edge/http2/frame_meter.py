"""Cuts the bytes of a client into frames and counts them, before they are parsed.

A frame of nine bytes costs its sender nothing and the server 10 to 30 µs, whatever its type. So frames are cut by their
nine-byte headers alone, and only as many frames go on to the HTTP/2 library as the client's allowance pays for. The
rest waits here, at most one read of it, and further bytes wait in the network.

`FrameMeter` cuts and counts; the allowance is a `shared.timing.token_bucket.TokenBucket`.
"""

from __future__ import annotations

from h2.errors import ErrorCodes

PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
"""The first bytes of an HTTP/2 client (RFC 9113, section 3.4)."""
LONGEST_FRAME = 16_384
"""Bytes of a frame's payload: the default of SETTINGS_MAX_FRAME_SIZE, which the edge never raises."""
MOST_CONTINUED = 9
"""Frames of the header block of one call: 128 KiB, and one to spare."""

_HEADER = 9
_DATA, _HEADERS, _CONTINUATION = 0, 1, 9
_END_HEADERS = 4
_CALL_PRICE = 16
"""Cost of HEADERS: verifying a token, and a response. Any other frame costs 1, which is about 25 µs."""
_DECODED = 1024
"""Bytes of headers that cost 1 more, for decoding."""
_CARRIED = 8192
"""Bytes of DATA that cost 1 more, for decrypting and copying."""


class FrameError(Exception):
    """The connection must end with this error code."""

    def __init__(self, code: ErrorCodes) -> None:
        super().__init__(code.name)
        self.code = code


class FrameMeter:
    """Cuts the bytes of one client into complete frames."""

    __slots__ = ("_continued", "_preface_read", "rest", "waiting")

    def __init__(self) -> None:
        self.rest = b""
        """Bytes received that are not cut yet."""
        self._preface_read = False
        self._continued = 0
        """Frames of the open header block; 0 if none is open."""
        self.waiting = False
        """Whether a complete frame waits for the allowance."""

    def add(self, content: bytes) -> None:
        """Add bytes from the network."""
        self.rest = self.rest + content if self.rest else content

    def next(self, *, allowed: bool) -> tuple[bytes, float]:
        """The next complete frame and its cost, if one is allowed; else no bytes.

        The preface comes with the first frame. Raises `FrameError` if a frame is too long, or a header block has too
        many frames.
        """
        held = self.rest
        size = len(held)
        at = 0 if self._preface_read else self._skip_preface(held)
        self.waiting = False
        if size - at < _HEADER:
            return b"", 0.0
        length = held[at] << 16 | held[at + 1] << 8 | held[at + 2]
        if length > LONGEST_FRAME:
            raise FrameError(ErrorCodes.FRAME_SIZE_ERROR)
        end = at + _HEADER + length
        if end > size:
            return b"", 0.0
        if not allowed:
            self.waiting = True
            return b"", 0.0
        kind, price = held[at + 3], 1.0
        if kind == _DATA:
            price += length // _CARRIED
        elif kind == _HEADERS:
            price = _CALL_PRICE + length // _DECODED
            self._continued = 0 if held[at + 4] & _END_HEADERS else 1
        elif kind == _CONTINUATION:
            price += length // _DECODED
            self._continue(held[at + 4])
        self._preface_read = True
        if end == size:
            self.rest = b""
            return held, price
        self.rest = held[end:]
        return held[:end], price

    def _skip_preface(self, held: bytes) -> int:
        """The offset of the first frame, after the preface."""
        if not PREFACE.startswith(held[: len(PREFACE)]):
            raise FrameError(ErrorCodes.PROTOCOL_ERROR)
        return len(PREFACE)

    def _continue(self, flags: int) -> None:
        if self._continued:
            self._continued += 1
            if self._continued > MOST_CONTINUED:
                raise FrameError(ErrorCodes.ENHANCE_YOUR_CALM)
            if flags & _END_HEADERS:
                self._continued = 0
