"""The rules of HTTP/2 as `h2` implements them, with the settings of this server.

Two things differ from the library. One call too many, or a malformed header, ends its stream and not the connection
(RFC 9113, sections 5.1.2 and 8.1.1). And the cache of closed streams is smaller than 65,536 entries, because clients
decide its size. The first overrides private methods of `h2`, so pyproject.toml admits `h2` below 5 only, and
`test_h2_rules.py` fails if they are not called.
"""

from __future__ import annotations

import struct

from h2.config import H2Configuration
from h2.connection import H2Connection
from h2.errors import ErrorCodes
from h2.events import Event, StreamReset
from h2.exceptions import DenialOfServiceError, ProtocolError, StreamClosedError, StreamIDTooLowError
from h2.settings import SettingCodes, Settings
from h2.stream import StreamState
from hyperframe.frame import DataFrame, Frame, HeadersFrame, RstStreamFrame

MOST_CALLS = 256
"""Calls that a connection may have at a time."""
MOST_HEADERS = 32 * 1024
"""Bytes of the headers of a call: a token, and room. A call with more is refused."""
MOST_DECODED = 128 * 1024
"""Bytes of headers that are decoded, so that such a call ends alone; more than that end the connection."""

_CONFIGURATION = H2Configuration(
    client_side=False,
    header_encoding="latin-1",
    # `headers.malformed` does both, for a stream and not for the connection.
    validate_inbound_headers=False,
    normalize_inbound_headers=False,
)
_ADVERTISED = Settings(
    client=False,
    initial_values={SettingCodes.MAX_CONCURRENT_STREAMS: MOST_CALLS, SettingCodes.MAX_HEADER_LIST_SIZE: MOST_HEADERS},
)
"""Settings sent to every client: they never change, and one object for each connection would take 5 kB."""
_ENFORCED = Settings(
    client=False,
    initial_values={SettingCodes.MAX_CONCURRENT_STREAMS: 1 << 20, SettingCodes.MAX_HEADER_LIST_SIZE: MOST_DECODED},
)
"""Settings that the library enforces. The connection enforces the number of calls, by REFUSED_STREAM."""

_SENDING = frozenset((StreamState.OPEN, StreamState.HALF_CLOSED_REMOTE))
"""States of a stream in which the server may send DATA (RFC 9113, section 5.1), after its headers."""
_HEAD = struct.Struct(">HBBBI")
"""The nine bytes before each frame's payload (RFC 9113, section 4.1): length in three, type, flags, stream."""


def _reset(stream: int, code: ErrorCodes | int) -> Frame:
    frame = RstStreamFrame(stream)
    frame.error_code = code
    return frame


class H2Rules(H2Connection):
    """The rules of one connection."""

    MAX_CLOSED_STREAMS = 4 * MOST_CALLS

    def __init__(self) -> None:
        super().__init__(_CONFIGURATION)
        self.decoder.max_header_list_size = MOST_DECODED

    def send_settings(self) -> None:
        """Send the server's settings."""
        self.local_settings = _ADVERTISED
        self.initiate_connection()
        self.local_settings = _ENFORCED

    def data(self, stream: int, content: bytes | memoryview) -> tuple[bytes, int]:
        """A DATA frame with as much of `content` as the windows allow, after all pending frames.

        Returns the frame and the number of bytes of `content` in it; 0 if no window is open, or the stream is closed.
        The library does the same with a state machine, objects and log texts, which take a third of the cost of a push.
        """
        found = self.streams.get(stream)
        if found is None or found.state_machine.state not in _SENDING:
            return b"", 0
        size = min(len(content), self.outbound_flow_control_window, found.outbound_flow_control_window)
        if size <= 0:
            return b"", 0
        self.outbound_flow_control_window -= size
        found.outbound_flow_control_window -= size
        head = _HEAD.pack(size >> 8, size & 0xFF, 0, 0, stream)
        return b"".join((self.data_to_send(), head, content[:size])), size

    def _receive_frame(self, frame: Frame) -> list[Event]:
        """The library's method without the log text that it makes of each frame.

        A frame on a stream that was reset is answered by a reset (RFC 9113, section 5.1). One on a stream that has
        ended, or was never opened, ends the connection.
        """
        try:
            frames, events = self._frame_dispatch_table[frame.__class__](frame)
        except StreamClosedError as error:
            if not self._stream_is_closed_by_reset(error.stream_id):
                raise
            frames, events = [_reset(error.stream_id, error.error_code)], list(error._events)  # noqa: SLF001  # pyright: ignore[reportPrivateUsage] (h2's own way)
        except StreamIDTooLowError as error:
            if self._stream_is_closed_by_reset(error.stream_id):
                frames, events = [_reset(error.stream_id, ErrorCodes.STREAM_CLOSED)], []
            elif self._stream_is_closed_by_end(error.stream_id):
                raise StreamClosedError(error.stream_id) from error
            else:
                raise
        self._prepare_for_sending(frames)
        return events

    def _receive_headers_frame(self, frame: HeadersFrame) -> tuple[list[Frame], list[Event]]:
        try:
            return super()._receive_headers_frame(frame)
        except ProtocolError as error:
            return self._malformed(frame, error)

    def _receive_data_frame(self, frame: DataFrame) -> tuple[list[Frame], list[Event]]:
        try:
            return super()._receive_data_frame(frame)
        except ProtocolError as error:
            return self._malformed(frame, error)

    def _malformed(self, frame: HeadersFrame | DataFrame, error: ProtocolError) -> tuple[list[Frame], list[Event]]:
        """End the stream of a malformed request: wrong `content-length`, or trailers that do not end it.

        Raises the error if it is one of the connection: of its header compression (h2 chains that error), its windows,
        or its order of streams.
        """
        of_connection = isinstance(error, DenialOfServiceError | StreamClosedError | StreamIDTooLowError)
        if of_connection or error.__cause__ is not None or error.error_code is not ErrorCodes.PROTOCOL_ERROR:
            raise error
        if frame.stream_id not in self.streams:
            raise error
        stream = frame.stream_id
        if isinstance(frame, DataFrame) and frame.flow_controlled_length:
            # The window of the connection is shared: it must not shrink with each malformed call.
            self.increment_flow_control_window(frame.flow_controlled_length)
        reset = self.streams[stream].reset_stream(ErrorCodes.PROTOCOL_ERROR)
        return reset, [StreamReset(stream_id=stream, error_code=ErrorCodes.PROTOCOL_ERROR, remote_reset=False)]
