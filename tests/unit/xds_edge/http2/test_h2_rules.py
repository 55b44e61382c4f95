"""What is done in the library's place is what the library does: DATA byte for byte, errors of closed streams."""

from __future__ import annotations

import pytest
from h2.config import H2Configuration
from h2.connection import H2Connection
from h2.events import DataReceived, Event
from h2.exceptions import ProtocolError
from h2.settings import SettingCodes
from hyperframe.frame import Frame

from services.xds_edge.http2.h2_rules import H2Rules
from tests.unit.xds_edge.rig import HEADERS

ANSWER = [(":status", "200")]


class Pair:
    """The server's rules, and a client of the library's."""

    def __init__(self, *, window: int | None = None, rules: type[H2Rules] = H2Rules) -> None:
        self.client = H2Connection(H2Configuration(client_side=True, header_encoding="utf-8"))
        self.client.initiate_connection()
        if window is not None:
            self.client.update_settings({SettingCodes.INITIAL_WINDOW_SIZE: window})
        self.server = rules()
        self.server.send_settings()
        self.client.send_headers(1, HEADERS)
        self.pump()
        self.server.send_headers(1, ANSWER)
        self.pump()

    def pump(self) -> list[Event]:
        self.server.receive_data(self.client.data_to_send())
        return self.client.receive_data(self.server.data_to_send())


@pytest.mark.parametrize("size", [1, 255, 256, 4096, 16_384])
def test_a_data_frame_is_byte_for_byte_the_librarys(size: int) -> None:
    ours, theirs, content = Pair(), Pair(), bytes(range(256)) * 64
    frame, sent = ours.server.data(1, memoryview(content)[:size])
    theirs.server.send_data(1, content[:size])
    assert sent == size
    assert frame == theirs.server.data_to_send()
    assert ours.server.local_flow_control_window(1) == theirs.server.local_flow_control_window(1)
    assert ours.server.outbound_flow_control_window == theirs.server.outbound_flow_control_window


def test_no_more_is_sent_than_either_window_allows() -> None:
    pair = Pair(window=100)
    assert pair.server.data(1, bytes(1000))[1] == 100
    assert pair.server.data(1, bytes(1000)) == (b"", 0)
    wide = Pair(window=1 << 20)
    sent = 0
    while part := wide.server.data(1, bytes(16_384))[1]:
        sent += part
    assert sent == 65_535, "the connection's window"


def test_what_is_to_be_said_before_it_goes_before_it() -> None:
    pair = Pair()
    pair.server.ping(b"12345678")
    frame, _ = pair.server.data(1, b"content")
    assert frame.index(b"12345678") < frame.index(b"content")
    assert any(isinstance(event, DataReceived) for event in pair.client.receive_data(frame))


def test_a_stream_that_is_over_takes_nothing() -> None:
    pair = Pair()
    pair.client.reset_stream(1)
    pair.pump()
    assert pair.server.data(1, b"x") == (b"", 0)
    assert pair.server.data(77, b"x") == (b"", 0)


LATE = {
    "data": b"\x00\x00\x01\x00\x00\x00\x00\x00\x01x",
    "headers": b"\x00\x00\x01\x01\x05\x00\x00\x00\x01\x82",
    "window": b"\x00\x00\x04\x08\x00\x00\x00\x00\x01\x00\x00\x00\x01",
    "reset": b"\x00\x00\x04\x03\x00\x00\x00\x00\x01\x00\x00\x00\x08",
}


class Librarys(H2Rules):
    """With the library's own reading of frames."""

    _receive_frame = H2Connection._receive_frame  # pyright: ignore[reportPrivateUsage]


@pytest.mark.parametrize("late", sorted(LATE))
@pytest.mark.parametrize("end", ["reset by us", "reset by the client", "ended", "forgotten"])
def test_what_comes_on_a_stream_that_is_over_is_taken_as_the_library_takes_it(late: str, end: str) -> None:
    def outcome(rules: type[H2Rules]) -> tuple[str, list[str], bytes]:
        pair = Pair(rules=rules)
        match end:
            case "reset by us":
                pair.server.reset_stream(1)
            case "reset by the client":
                pair.client.reset_stream(1)
            case _:
                pair.client.end_stream(1)
                pair.pump()
                pair.server.end_stream(1)
        pair.pump()
        if end == "forgotten":
            assert pair.server.open_inbound_streams == 0
        try:
            events = pair.server.receive_data(LATE[late])
        except ProtocolError as error:
            return type(error).__name__, [], pair.server.data_to_send()
        return "", [type(event).__name__ for event in events], pair.server.data_to_send()

    assert outcome(H2Rules) == outcome(Librarys)


def test_no_text_is_made_of_a_frame(monkeypatch: pytest.MonkeyPatch) -> None:
    """The library would, for a log that is not kept: for every frame of a flood."""

    def told(_frame: Frame) -> str:
        raise AssertionError("a text was made of a frame")

    pair = Pair()
    pair.client.ping(b"12345678")
    pair.client.increment_flow_control_window(10)
    pair.client.send_data(1, b"content", end_stream=True)
    monkeypatch.setattr(Frame, "__repr__", told)
    assert len(pair.server.receive_data(pair.client.data_to_send())) >= 4
