"""Counts a connection's frames before anything parses them.

A frame of nine bytes costs its sender nothing and us 10 to 30 µs, whatever its type. So the bytes of a client are cut
into whole frames here, by the nine bytes of each header alone, and only as many frames go on to the HTTP/2 library as
the client's allowance pays for. The rest waits, at most one read of it, and the network behind it.

`FrameMeter` cuts and counts; what may be spent is a `shared.timing.token_bucket.TokenBucket`.
"""

from __future__ import annotations

from h2.errors import ErrorCodes

PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
"""What an HTTP/2 client says first (RFC 9113, section 3.4)."""
LONGEST_FRAME = 16_384
"""Bytes of a frame's payload: SETTINGS_MAX_FRAME_SIZE was never raised."""
MOST_CONTINUED = 9
"""Frames that the header block of one call may take: 128 KiB, and one to spare."""

_HEADER = 9
_DATA, _HEADERS, _CONTINUATION = 0, 1, 9
_END_HEADERS = 4
_CALL_PRICE = 16
"""What HEADERS cost: checking a token, and an answer. Every other frame costs 1, which is about 25 µs."""
_DECODED = 1024
"""Bytes of headers that cost 1 more: decoding."""
_CARRIED = 8192
"""Bytes of DATA that cost 1 more: decrypting and copying."""


class FrameError(Exception):
    """The connection must end with this error code."""

    def __init__(self, code: ErrorCodes) -> None:
        super().__init__(code.name)
        self.code = code


class FrameMeter:
    """Cuts what one client sends into whole frames."""

    __slots__ = ("_continued", "_greeted", "rest", "waiting")

    def __init__(self) -> None:
        self.rest = b""
        """What the network brought and nothing has taken."""
        self._greeted = False
        self._continued = 0
        """Frames of the header block that is open; 0: none is."""
        self.waiting = False
        """Whether a whole frame waits for the allowance."""

    def add(self, content: bytes) -> None:
        """Take what the network brought."""
        self.rest = self.rest + content if self.rest else content

    def next(self, *, allowed: bool) -> tuple[bytes, float]:
        """The next whole frame, if one may be taken, and its price; none: no bytes.

        The preface comes with the first frame. Raises `FrameError` when a frame, or a header block in many frames, is
        longer than what was agreed.
        """
        held = self.rest
        size = len(held)
        at = 0 if self._greeted else self._greet(held)
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
        self._greeted = True
        if end == size:
            self.rest = b""
            return held, price
        self.rest = held[end:]
        return held[:end], price

    def _greet(self, held: bytes) -> int:
        """Where the first frame begins."""
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
