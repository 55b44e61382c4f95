"""What a stranger, or a client that went astray, can do to one connection: little, and nothing to other calls."""

from __future__ import annotations

import asyncio

import pytest
from h2.events import ConnectionTerminated, DataReceived, RemoteSettingsChanged, StreamReset
from h2.settings import SettingCodes

from services.xds_edge.http2.connection import MOST_REFUSED
from services.xds_edge.http2.frame_reader import UNPROVEN_BURST
from services.xds_edge.http2.h2_rules import MOST_CALLS, MOST_HEADERS
from services.xds_edge.http2.keepalive import Http2Limits
from services.xds_edge.limits.memory_ledger import MemoryLedger
from tests.unit.xds_edge.http2.test_frame_meter import (
    ALTSVC,
    CONTINUATION,
    DATA,
    PING,
    PRIORITY,
    RST,
    SETTINGS,
    WINDOW_UPDATE,
    frame,
)
from tests.unit.xds_edge.rig import HEADERS, Rig
from tests.waiting import eventually

CHEAP = {
    "empty data": frame(DATA),
    "padded data": frame(DATA, b"\x05" + bytes(5), flags=8),
    "small data": frame(DATA, b"x"),
    "window update": frame(WINDOW_UPDATE, b"\0\0\0\1", stream=0),
    "window update of a call": frame(WINDOW_UPDATE, b"\0\0\0\1"),
    "unknown": frame(0x55),
    "ping": frame(PING, b"12345678", stream=0),
    "ping answer": frame(PING, b"12345678", flags=1, stream=0),
    "altsvc": frame(ALTSVC, b"\0\0"),
    "priority": frame(PRIORITY, b"\0\0\0\0\x10", stream=3),
    "settings": frame(SETTINGS, stream=0),
    "settings answer": frame(SETTINGS, flags=1, stream=0),
    "reset of a call that is over": frame(RST, b"\0\0\0\0"),
}


@pytest.mark.parametrize("kind", sorted(CHEAP))
async def test_every_kind_of_frame_is_read_at_a_bounded_rate_from_a_stranger(kind: str) -> None:
    rig = Rig(known=False)
    rig.open()
    rig.shout(CHEAP[kind] * 2000)
    assert not rig.wire.reading
    rig.lose()


@pytest.mark.parametrize("kind", sorted(CHEAP))
async def test_every_kind_of_frame_is_read_at_a_bounded_rate_from_a_member(kind: str) -> None:
    rig = Rig(Http2Limits(debt=0.1))
    rig.account.frames.spend(3900)
    rig.open()
    while not rig.wire.closed:
        if rig.wire.reading:
            rig.shout(CHEAP[kind] * 500)
        await asyncio.sleep(0.005)
    assert set(rig.ends) & {"flood", "protocol"}
    rig.lose()


async def test_a_stranger_that_tries_on_is_sent_away() -> None:
    rig = Rig(known=False)
    for number in range(MOST_REFUSED):
        assert not rig.wire.closed
        await eventually(lambda: rig.wire.reading, within=5, what="it is read")
        rig.open(2 * number + 1)
    await eventually(lambda: rig.wire.closed, within=5, what="it is sent away")
    assert rig.ends == {"refused": 1}
    assert not rig.calls
    rig.lose()


async def test_nothing_of_a_call_without_a_token_is_kept() -> None:
    ledger = MemoryLedger(each=1 << 30, total=1 << 30)
    rig = Rig(known=False, ledger=ledger)
    rig.client.send_headers(1, HEADERS)
    rig.client.send_data(1, b"\0\0\x7f\xff\xff" + b"x" * 10_000)
    rig.client.send_data(1, b"x" * 16_000)
    rig.pump()
    assert rig.server.calls == {}
    assert ledger.held == 0
    rig.lose()


async def test_a_connection_that_proves_nothing_is_closed_however_much_it_says() -> None:
    rig = Rig(Http2Limits(prove_within=0.1), known=False)
    rig.open()
    while not rig.wire.closed:
        rig.client.ping(b"12345678")
        rig.pump()
        await asyncio.sleep(0.01)
    assert rig.ends == {"unproven": 1}
    rig.lose()


async def test_a_connection_whose_calls_are_over_is_asked_to_leave_however_much_it_says() -> None:
    rig = Rig(Http2Limits(idle=0.3, keepalive=0.05))
    rig.open()
    rig.client.end_stream(1)
    await rig.until(lambda: not rig.server.calls, what="the call is over")
    while not rig.wire.closed:
        rig.shout(CHEAP["ping"])
        await asyncio.sleep(0.01)
    assert rig.ends == {"idle": 1}
    rig.lose()


async def test_a_connection_with_a_call_stays_although_it_is_idle() -> None:
    rig = Rig(Http2Limits(idle=0.05, keepalive=0.03, keepalive_timeout=0.5))
    rig.open()
    for _ in range(30):
        rig.pump()
        await asyncio.sleep(0.01)
    assert not rig.wire.closed
    rig.lose()


async def test_a_client_that_makes_us_write_and_reads_nothing_is_cut_off() -> None:
    rig = Rig(Http2Limits(write_timeout=0.05))
    rig.open()
    rig.server.pause_writing()
    assert not rig.wire.reading
    await eventually(lambda: rig.wire.aborted, within=5, what="it is cut off")
    assert rig.ends == {"unread": 1}
    rig.lose()


async def test_a_client_that_reads_late_is_read_again() -> None:
    rig = Rig(Http2Limits(write_timeout=0.05))
    rig.open()
    rig.server.pause_writing()
    rig.server.resume_writing()
    rig.server.pause_writing()
    await asyncio.sleep(0.02)
    rig.server.resume_writing()
    assert rig.wire.reading
    await asyncio.sleep(0.06)
    assert not rig.wire.closed
    rig.lose()


# Calls do not end each other


async def test_the_settings_say_how_many_calls_there_may_be() -> None:
    rig = Rig()
    said = next(event for event in rig.events if isinstance(event, RemoteSettingsChanged))
    assert said.changed_settings[SettingCodes.MAX_CONCURRENT_STREAMS].new_value == MOST_CALLS == 256
    rig.lose()


async def test_a_call_too_many_is_refused_and_the_others_live_on() -> None:
    rig = Rig()
    rig.account.frames.earn(1e6)
    # As before our settings were seen.
    rig.client.remote_settings[SettingCodes.MAX_CONCURRENT_STREAMS] = 1000
    rig.client.remote_settings.acknowledge()
    for number in range(MOST_CALLS + 3):
        rig.client.send_headers(2 * number + 1, HEADERS)
    await rig.until(lambda: sum(isinstance(event, StreamReset) for event in rig.events) == 3, what="three resets")
    await rig.until(lambda: len(rig.calls) == MOST_CALLS, what="all that may be")
    resets = [event for event in rig.events if isinstance(event, StreamReset)]
    assert [event.stream_id for event in resets] == [2 * number + 1 for number in range(MOST_CALLS, MOST_CALLS + 3)]
    assert {int(event.error_code or 0) for event in resets} == {7}, "REFUSED_STREAM"
    assert len(rig.server.calls) == MOST_CALLS
    rig.client.reset_stream(1)
    rig.open(2 * MOST_CALLS + 7)
    await eventually(lambda: len(rig.calls) == MOST_CALLS + 1, within=5, what="there is room for another")
    rig.lose()


MALFORMED = {
    "upper case": [*HEADERS, ("X-Upper", "1")],
    "of the connection": [*HEADERS, ("connection", "close")],
    "te": [*HEADERS, ("te", "gzip")],
    "no path": [pair for pair in HEADERS if pair[0] != ":path"],
    "content-length that is none": [*HEADERS, ("content-length", "x")],
    "two content-lengths": [*HEADERS, ("content-length", "1"), ("content-length", "2")],
}


def unchecked(rig: Rig) -> None:
    """Let the client send what it should not."""
    rig.client.config.validate_outbound_headers = False
    rig.client.config.normalize_outbound_headers = False


@pytest.mark.parametrize("kind", sorted(MALFORMED))
async def test_malformed_headers_end_their_stream_and_no_other(kind: str) -> None:
    rig = Rig()
    rig.open(1)
    unchecked(rig)
    rig.open(3, MALFORMED[kind])
    await expect_lonely_reset(rig, 3)


async def test_more_bytes_than_the_content_length_end_their_stream_and_no_other() -> None:
    rig = Rig()
    rig.open(1)
    rig.open(3, [*HEADERS, ("content-length", "4")])
    rig.say(b"more than four", 3)
    await expect_lonely_reset(rig, 3)


async def test_malformed_calls_do_not_eat_up_the_window_of_the_others() -> None:
    rig = Rig()
    rig.account.frames.earn(1e6)
    rig.open(1)
    for number in range(3, 43, 2):
        rig.open(number, [*HEADERS, ("content-length", "4")])
        rig.client.send_data(number, b"x" * 10_000)
        rig.pump()
    assert rig.client.outbound_flow_control_window > 30_000
    await expect_lonely_reset(rig, 3)


async def test_trailers_that_end_nothing_end_their_stream_and_no_other() -> None:
    rig = Rig()
    rig.open(1)
    rig.open(3)
    block = rig.client.encoder.encode([("grpc-status", "0")])
    rig.shout(frame(1, block, flags=4, stream=3))
    await expect_lonely_reset(rig, 3)


async def test_malformed_trailers_end_their_stream_and_no_other() -> None:
    rig = Rig()
    rig.open(1)
    rig.open(3)
    unchecked(rig)
    rig.client.send_headers(3, [("X-Upper", "1")], end_stream=True)
    rig.pump()
    await expect_lonely_reset(rig, 3)


async def expect_lonely_reset(rig: Rig, stream: int) -> None:
    reset = await rig.heard(StreamReset)
    assert isinstance(reset, StreamReset)
    assert (reset.stream_id, int(reset.error_code or 0)) == (stream, 1)
    rig.say(b"still here", 1)
    await rig.heard(DataReceived)
    assert not rig.wire.closed
    assert not any(isinstance(event, ConnectionTerminated) for event in rig.events)
    assert 1 in rig.server.calls
    assert stream not in rig.server.calls
    rig.lose()


async def test_headers_that_are_too_long_end_their_call_and_no_other() -> None:
    rig = Rig()
    rig.open(1)
    rig.client.max_outbound_frame_size = 16_384
    rig.open(3, [*HEADERS, *((f"x-{number}", "v" * 4000) for number in range(MOST_HEADERS // 4000 + 1))])
    assert 3 not in rig.server.calls
    assert 1 in rig.server.calls
    assert not rig.wire.closed
    rig.lose()


async def test_headers_and_a_reset_in_one_read_leave_the_others_alone() -> None:
    """What the library knows must not be ahead of what is done about it."""
    rig = Rig(known=False)
    rig.client.send_headers(1, HEADERS)
    rig.client.reset_stream(1)
    rig.client.send_headers(3, HEADERS)
    rig.client.send_data(3, b"\0\0\0\0\5hello")
    rig.client.reset_stream(3)
    rig.pump()
    assert not rig.wire.closed
    assert rig.ends == {}
    rig.lose()


# No call waits for another


@pytest.mark.parametrize(("count", "size"), [(8, 200_000), (32, 200_000), (8, 1_000_000), (5, 60_000)])
async def test_calls_with_long_first_messages_on_one_connection_are_all_answered(count: int, size: int) -> None:
    """In slices of 16 KiB in turn, as stock clients send them; none is answered before all have begun."""
    rig = Rig(ledger=MemoryLedger(each=64 << 20, total=64 << 20))
    rig.client.increment_flow_control_window(1 << 30)
    rig.client.update_settings({SettingCodes.INITIAL_WINDOW_SIZE: 1 << 30})
    rig.pump()
    left = {}
    for number in range(count):
        stream = 2 * number + 1
        rig.open(stream)
        left[stream] = b"\0" + size.to_bytes(4, "big") + bytes(size)
    deadline = asyncio.get_running_loop().time() + 20
    while left:
        assert asyncio.get_running_loop().time() < deadline, f"{len(left)} calls wait for ever"
        for stream in list(left):
            part = min(16_384, rig.client.local_flow_control_window(stream), len(left[stream]))
            if part:
                rig.client.send_data(stream, left[stream][:part])
                left[stream] = left[stream][part:]
                if not left[stream]:
                    del left[stream]
        rig.account.frames.earn(1e6)
        rig.pump()
        await asyncio.sleep(0)
    await eventually(lambda: len(rig.calls) == count, within=5, what="all are routed")
    await eventually(lambda: all(call.unread == 0 for call in rig.calls), within=10, what="all are read")
    rig.lose()


async def test_one_client_that_leaves_much_unfinished_loses_calls_and_not_the_connection() -> None:
    ledger = MemoryLedger(each=100_000, total=1 << 30)
    rig = Rig(ledger=ledger)
    rig.account.frames.earn(1e6)
    for number in range(4):
        stream = 2 * number + 1
        rig.open(stream)
        rig.client.send_data(stream, b"\0\0\x10\0\0" + b"x" * 16_000)
        rig.client.send_data(stream, b"x" * 16_000)
        rig.pump()
    assert ledger.held <= 100_000
    assert ledger.overflows == 1
    await eventually(lambda: len(rig.server.calls) == 3, within=5, what="one call ended")
    assert not rig.wire.closed
    rig.lose()
    assert ledger.held == 0


async def test_a_stranger_may_send_what_a_first_call_takes() -> None:
    """As much as stock clients send before the answer, many times over."""
    rig = Rig()
    rig.shout(CHEAP["settings"] + CHEAP["window update"] + CHEAP["ping"] * 10 + CHEAP["priority"] * 20)
    rig.open()
    assert rig.wire.reading
    assert len(rig.server.calls) == 1
    assert UNPROVEN_BURST > 100
    rig.lose()


async def test_headers_that_never_end_end_the_connection() -> None:
    rig = Rig()
    rig.shout(frame(1, b"", flags=0) + frame(CONTINUATION, b"") * 20)
    assert rig.wire.closed
    assert rig.ends == {"frame": 1}
    rig.lose()


async def test_each_message_of_a_frame_is_paid_for() -> None:
    rig = Rig()
    rig.open()
    now = asyncio.get_running_loop().time()
    before = rig.account.frames.left(now)
    rig.client.send_data(1, b"\0\0\0\0\0" * 3000)
    rig.pump()
    assert rig.account.frames.left(now) < before - 2900
    rig.lose()
