"""Frames are cut and counted by their headers alone, whatever they are and however they arrive."""

from __future__ import annotations

import pytest
from h2.errors import ErrorCodes

from services.xds_edge.http2.frame_meter import LONGEST_FRAME, MOST_CONTINUED, PREFACE, FrameError, FrameMeter

DATA, HEADERS, PRIORITY, RST, SETTINGS, PING, GOAWAY, WINDOW_UPDATE, CONTINUATION, ALTSVC = (
    0,
    1,
    2,
    3,
    4,
    6,
    7,
    8,
    9,
    10,
)
END_HEADERS = 4


def frame(kind: int, payload: bytes = b"", *, flags: int = 0, stream: int = 1) -> bytes:
    return len(payload).to_bytes(3, "big") + bytes((kind, flags)) + stream.to_bytes(4, "big") + payload


def taken(meter: FrameMeter) -> tuple[list[bytes], float]:
    """All whole frames that it has, and their price together."""
    found: list[bytes] = []
    total = 0.0
    while True:
        one, price = meter.next(allowed=True)
        if not one:
            return found, total
        found.append(one)
        total += price


@pytest.mark.parametrize("size", [1, 2, 8, 9, 10, 23, 24, 33, 1000, 20_000])
def test_frames_come_whole_and_in_order_however_they_are_cut(size: int) -> None:
    frames = [frame(SETTINGS), frame(HEADERS, b"h" * 40, flags=END_HEADERS), frame(DATA, b"d" * LONGEST_FRAME)]
    content = PREFACE + b"".join(frames)
    meter, found = FrameMeter(), list[bytes]()
    for start in range(0, len(content), size):
        meter.add(content[start : start + size])
        found += taken(meter)[0]
    assert found == [PREFACE + frames[0], *frames[1:]]
    assert not meter.rest


@pytest.mark.parametrize("kind", [DATA, PRIORITY, RST, SETTINGS, PING, GOAWAY, WINDOW_UPDATE, ALTSVC, 0x55, 0xFF])
@pytest.mark.parametrize("flags", [0, 1])
def test_every_frame_costs_whatever_it_is(kind: int, flags: int) -> None:
    meter = FrameMeter()
    meter.add(PREFACE + frame(kind, flags=flags) * 100)
    assert taken(meter) == ([PREFACE + frame(kind, flags=flags), *[frame(kind, flags=flags)] * 99], 100)


def test_calls_cost_more_and_long_headers_more_still() -> None:
    def price(payload: bytes, *continued: bytes) -> float:
        meter = FrameMeter()
        last = END_HEADERS if not continued else 0
        meter.add(PREFACE + frame(HEADERS, payload, flags=last))
        for number, more in enumerate(continued, 1):
            meter.add(frame(CONTINUATION, more, flags=END_HEADERS if number == len(continued) else 0))
        return taken(meter)[1]

    assert price(b"h") > 10
    assert price(b"h" * 8000) >= price(b"h") + 7
    assert price(b"h", b"h" * 8000) >= price(b"h") + 8


def test_long_data_costs_more_than_short() -> None:
    meter = FrameMeter()
    meter.add(PREFACE + frame(DATA, b"d") + frame(DATA, b"d" * LONGEST_FRAME))
    assert [meter.next(allowed=True)[1] for _ in range(2)] == [1, 3]


def test_nothing_is_taken_that_is_not_paid_for() -> None:
    meter = FrameMeter()
    meter.add(PREFACE + frame(PING, b"12345678"))
    assert meter.next(allowed=False) == (b"", 0.0)
    assert meter.waiting
    assert meter.next(allowed=True)[0]
    assert not meter.waiting


def test_half_a_frame_waits_for_the_network_and_not_for_the_allowance() -> None:
    meter = FrameMeter()
    meter.add(PREFACE + frame(PING, b"12345678")[:-1])
    assert meter.next(allowed=False) == (b"", 0.0)
    assert not meter.waiting


def refused(content: bytes) -> ErrorCodes:
    meter = FrameMeter()
    meter.add(content)
    with pytest.raises(FrameError) as error:
        taken(meter)
    return error.value.code


def test_a_frame_beyond_the_agreed_size_is_refused_by_its_first_bytes() -> None:
    over = (LONGEST_FRAME + 1).to_bytes(3, "big") + bytes(6)
    assert refused(PREFACE + over) is ErrorCodes.FRAME_SIZE_ERROR


@pytest.mark.parametrize("greeting", [b"G", b"GET / HTTP/1.1\r\n", b"PRI * HTTP/1.1\r\n", PREFACE[:-1] + b"x"])
def test_another_protocol_is_refused_by_its_first_bytes(greeting: bytes) -> None:
    assert refused(greeting) is ErrorCodes.PROTOCOL_ERROR


@pytest.mark.parametrize("payload", [b"", b"h" * 100])
def test_headers_in_too_many_frames_are_refused(payload: bytes) -> None:
    content = PREFACE + frame(HEADERS, b"h") + frame(CONTINUATION, payload) * MOST_CONTINUED
    assert refused(content) is ErrorCodes.ENHANCE_YOUR_CALM


def test_headers_of_many_calls_in_some_frames_each_are_not() -> None:
    meter = FrameMeter()
    one = frame(HEADERS, b"h") + frame(CONTINUATION, b"h") + frame(CONTINUATION, b"h", flags=END_HEADERS)
    meter.add(PREFACE + one * 20)
    assert len(taken(meter)[0]) == 60
