"""One connection, with the client's side of HTTP/2 played by `h2`: age, silence, resets, floods, closed windows."""

from __future__ import annotations

import asyncio
import random

import pytest
from h2.config import H2Configuration
from h2.connection import H2Connection
from h2.events import ConnectionTerminated, DataReceived, ResponseReceived, StreamReset, TrailersReceived
from h2.settings import SettingCodes
from hypothesis import given, settings
from hypothesis import strategies as st

from services.xds_edge.http2.call import GrpcCall, Handler
from services.xds_edge.http2.connection import Http2Connection
from services.xds_edge.http2.h2_rules import MOST_HEADERS
from services.xds_edge.http2.keepalive import Http2Limits
from services.xds_edge.limits.pod_usage import PodLimits, PodUsage
from tests.unit.xds_edge.rig import HEADERS, Rig, Wire
from tests.waiting import eventually


async def test_a_call_is_answered_and_ends_with_a_status() -> None:
    rig = Rig()
    rig.open()
    rig.say(b"hello")
    answer = await rig.heard(DataReceived)
    assert isinstance(answer, DataReceived)
    assert answer.data == b"\0\0\0\0\5hello"
    rig.client.end_stream(1)
    trailers = await rig.heard(TrailersReceived)
    assert isinstance(trailers, TrailersReceived)
    assert ("grpc-status", "0") in (trailers.headers or ())
    assert rig.server.calls == {}
    rig.lose()


HEADERS_FRAME = b"\x00\x10\x00\x01\x00\x00\x00\x00\x01" + b"\x00" * 4096
CONTINUATION_FRAME = b"\x00\x10\x00\x09\x00\x00\x00\x00\x01" + b"\x00" * 4096


@pytest.mark.parametrize(
    "garbage",
    [
        b"GET / HTTP/1.1\r\n\r\n" * 1000,  # a frame of 4.6 MB, by its first three bytes
        b"\x00\x00\x04\x08\x00\x00\x00\x00\x07\x00\x00\x00\x00",  # a window that does not grow
        b"\x00\x00\x01\x00\x00\x00\x00\x00\x05x",  # data of a call that there is not
        HEADERS_FRAME + 9 * CONTINUATION_FRAME,
    ],
)
async def test_garbage_ends_the_connection(garbage: bytes) -> None:
    rig = Rig()
    rig.server.data_received(garbage)
    await eventually(lambda: rig.wire.closed, within=5, what="its end")
    rig.lose()
    assert rig.closed == 1


async def test_what_is_no_grpc_is_told_so() -> None:
    rig = Rig()
    rig.open(headers=[*HEADERS[:4], ("content-type", "text/html")])
    answer = await rig.heard(ResponseReceived)
    assert isinstance(answer, ResponseReceived)
    assert (":status", "415") in (answer.headers or ())
    assert rig.calls == []
    rig.lose()


async def test_headers_beyond_measure_end_the_connection() -> None:
    rig = Rig()
    rig.client.max_outbound_frame_size = 1 << 20
    rig.open(headers=[*HEADERS, ("authorization", "x" * (MOST_HEADERS + 1))])
    assert rig.wire.closed
    assert rig.calls == []
    rig.lose()


async def test_a_reset_ends_the_handler() -> None:
    rig = Rig()
    rig.open()
    await eventually(lambda: rig.calls, within=5, what="a call")
    rig.client.reset_stream(1)
    rig.pump()
    task = rig.calls[0].task
    assert task is not None
    await eventually(task.cancelled, within=5, what="the handler's end")
    assert not rig.wire.closed
    rig.lose()


async def test_the_end_of_the_connection_ends_its_handlers() -> None:
    rig = Rig()
    rig.open(1)
    rig.open(3)
    await eventually(lambda: len(rig.calls) == 2, within=5, what="two calls")
    rig.lose()
    await eventually(lambda: all(call.task and call.task.cancelled() for call in rig.calls), within=5, what="ends")


@pytest.mark.parametrize(("chance", "age"), [(0.0, 0.9), (0.5, 1.0), (1.0, 1.1)])
async def test_a_connection_is_asked_to_move_on_at_its_age_give_or_take_a_tenth(chance: float, age: float) -> None:
    rig = Rig(Http2Limits(max_connection_age=0.2), chance=chance)
    loop = asyncio.get_running_loop()
    began = loop.time()
    rig.open()
    await rig.heard(ConnectionTerminated)
    assert loop.time() - began >= 0.2 * age - 0.01
    assert rig.aged == 1
    assert not rig.wire.closed, "its calls may end first"
    rig.lose()


LEAVING_ANSWERED = b"\x00\x00\x08\x06\x01\x00\x00\x00\x00leaving?"


async def test_a_connection_that_leaves_takes_what_is_on_its_way_and_closes_with_the_last_call() -> None:
    rig = Rig()
    rig.open(1)
    await eventually(lambda: rig.calls, within=5, what="a call")
    rig.client.send_headers(3, HEADERS)
    crossing = rig.client.data_to_send()
    rig.client.send_headers(5, HEADERS)
    late = rig.client.data_to_send()
    rig.server.leave()
    assert b"\x7f\xff\xff\xff\x00\x00\x00\x00" in rig.wire.written, "GOAWAY that refuses nothing yet"
    rig.shout(crossing)
    assert len(rig.server.calls) == 2
    rig.wire.written = b""
    rig.shout(LEAVING_ANSWERED)
    rig.shout(late)
    assert b"\x00\x00\x08\x07\x00\x00\x00\x00\x00\x00\x00\x00\x03\x00\x00\x00\x00" in rig.wire.written, "GOAWAY after 3"
    assert b"\x00\x00\x04\x03\x00\x00\x00\x00\x05\x00\x00\x00\x07" in rig.wire.written, "REFUSED_STREAM"
    assert not rig.wire.closed
    for call in rig.server.calls.values():
        call.close()
    await eventually(lambda: rig.wire.closed, within=5, what="the end")
    assert not rig.wire.aborted
    rig.lose()


async def test_a_client_that_does_not_answer_the_goodbye_is_left_all_the_same() -> None:
    rig = Rig()
    rig.server.leave()
    await eventually(lambda: rig.wire.closed, within=5, what="the end")
    rig.lose()


async def test_a_silent_client_is_probed_and_let_go_if_it_does_not_answer() -> None:
    rig = Rig(Http2Limits(keepalive=0.05, keepalive_timeout=0.05))
    rig.open()
    await eventually(lambda: rig.wire.aborted, within=5, what="it is let go")
    rig.lose()


async def test_a_silent_client_that_answers_stays() -> None:
    rig = Rig(Http2Limits(keepalive=0.03, keepalive_timeout=0.03))
    rig.open()
    probes = 0
    deadline = asyncio.get_running_loop().time() + 5
    while probes < 4 and asyncio.get_running_loop().time() < deadline:
        probes += b"meshlog?" in rig.wire.written
        rig.pump()
        await asyncio.sleep(0.002)
    assert probes == 4
    assert not rig.wire.closed
    rig.lose()


async def test_a_call_whose_window_is_closed_waits_and_the_others_do_not() -> None:
    rig = Rig()
    rig.client.update_settings({SettingCodes.INITIAL_WINDOW_SIZE: 100})
    rig.client.increment_flow_control_window(1 << 20)
    rig.pump()
    rig.open(1)
    rig.open(3)
    rig.say(b"x" * 5000, 1)
    rig.say(b"y" * 20, 3)

    def data(stream: int) -> bytes:
        rig.pump()
        return b"".join(e.data or b"" for e in rig.events if isinstance(e, DataReceived) and e.stream_id == stream)

    await eventually(lambda: len(data(3)) == 25, within=5, what="the other's answer")
    assert len(data(1)) == 100
    rig.client.increment_flow_control_window(10_000, 1)
    await eventually(lambda: len(data(1)) == 5005, within=5, what="the rest")
    rig.lose()


async def test_a_call_given_up_in_the_middle_of_a_message_is_reset() -> None:
    rig = Rig()
    rig.client.update_settings({SettingCodes.INITIAL_WINDOW_SIZE: 100})
    rig.pump()
    rig.open()
    rig.say(b"x" * 5000)
    await rig.heard(DataReceived)
    task = rig.calls[0].task
    assert task is not None
    task.cancel()
    await rig.heard(StreamReset)
    assert not any(isinstance(event, TrailersReceived) for event in rig.events)
    rig.lose()


async def test_a_client_whose_network_is_full_is_cut_off_when_it_is_given_up() -> None:
    rig = Rig()
    rig.open()
    rig.server.pause_writing()
    rig.say(b"x")
    await eventually(lambda: rig.calls, within=5, what="a call")
    await asyncio.sleep(0)
    task = rig.calls[0].task
    assert task is not None
    task.cancel()
    await eventually(lambda: rig.wire.aborted, within=5, what="it is cut off")
    rig.lose()


def conversation() -> bytes:
    """The bytes of a client that uses every feature once."""
    client = H2Connection(H2Configuration(client_side=True, header_encoding="utf-8"))
    client.initiate_connection()
    client.send_headers(1, [*HEADERS, ("authorization", "Bearer token")])
    client.send_data(1, b"\0\0\0\0\5hello\0\0\0\0\3")
    client.send_headers(3, HEADERS)
    client.ping(b"12345678")
    client.send_data(1, b"abc", end_stream=True)
    client.update_settings({SettingCodes.INITIAL_WINDOW_SIZE: 10})
    client.increment_flow_control_window(100)
    client.reset_stream(3)
    client.send_headers(5, HEADERS, end_stream=True)
    client.close_connection()
    return client.data_to_send()


SAID = conversation()


@settings(max_examples=300, deadline=None)
@given(seed=st.integers(0, 2**32))
def test_no_bytes_bring_a_connection_out_of_step(seed: int) -> None:
    """Damaged, cut, repeated: nothing is raised, and a connection that ends takes its calls with it."""
    chance = random.Random(seed)  # noqa: S311
    content = bytearray(SAID)
    for _ in range(chance.randrange(4)):
        at = chance.randrange(len(content))
        match chance.randrange(4):
            case 0:
                content[at] = chance.randrange(256)
            case 1:
                del content[at : at + chance.randrange(40)]
            case 2:
                content[at:at] = chance.randbytes(chance.randrange(40))
            case _:
                content[at:at] = content[at : at + chance.randrange(200)]
    asyncio.run(_feed(bytes(content), chance))


async def _feed(content: bytes, chance: random.Random) -> None:
    calls: list[GrpcCall] = []
    account = PodUsage(PodLimits(), asyncio.get_running_loop().time())

    def route(call: GrpcCall) -> Handler:
        call.prove(account)
        return echo

    async def echo(call: GrpcCall) -> None:
        calls.append(call)
        while (message := await call.read()) is not None:
            await call.write(message)

    wire = Wire()
    connection = Http2Connection(route, Http2Limits())
    connection.connection_made(wire)
    at = 0
    while at < len(content) and not wire.closed:
        size = chance.choice([1, 9, 50, 1000])
        connection.data_received(content[at : at + size])
        at += size
        if chance.random() < 0.3:
            await asyncio.sleep(0)
    for _ in range(5):
        await asyncio.sleep(0)
    connection.connection_lost(None)
    for _ in range(5):
        await asyncio.sleep(0)
    assert connection.calls == {}
    for call in calls:
        assert call.task is not None
        assert call.task.done()
        assert call.task.cancelled() or call.task.exception() is None
