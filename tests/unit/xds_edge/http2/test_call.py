"""A gRPC call without a connection: messages out of bytes, windows, statuses."""

from __future__ import annotations

import asyncio

import pytest

from services.xds_edge.errors import Code, StreamRefusedError
from services.xds_edge.http2.call import RESPONSE, GrpcCall, Handler, Headers
from services.xds_edge.http2.send_queue import SendQueue
from services.xds_edge.limits.pod_usage import PodUsage

LIMIT = 100


class Carrier:
    """Takes as much as `room` allows."""

    peer = "test"
    address = "192.0.2.1"

    def __init__(self, room: int = 1 << 30) -> None:
        self.room = room
        self.sent = b""
        self.said: list[tuple[Headers, bool]] = []
        self.acknowledged = 0
        self.held = 0
        self.ends: list[bool] = []
        self.lined_up: list[SendQueue] = []

    def headers(self, stream: int, headers: Headers, *, ends: bool) -> None:
        assert stream == 1
        self.said.append((headers, ends))

    def send(self, stream: int, content: bytes | memoryview) -> int:
        assert stream == 1
        part = content[: self.room]
        self.sent += part
        self.room -= len(part)
        return len(part)

    def queue(self, send_queue: SendQueue) -> None:
        self.lined_up.append(send_queue)

    def go(self, most: int = 1 << 20) -> None:
        """Let those that wait for their turn have it."""
        waiting, self.lined_up = self.lined_up, []
        for send_queue in waiting:
            if send_queue.proceed(most)[1]:
                self.lined_up.append(send_queue)

    def acknowledge(self, stream: int, size: int) -> None:
        assert stream == 1
        self.acknowledged += size

    def prove(self, usage: PodUsage) -> None:
        pass

    def hold(self, call: GrpcCall, size: int) -> None:  # noqa: ARG002 (a carrier's signature)
        self.held += size
        assert self.held >= 0

    def finished(self, stream: int, *, whole: bool) -> None:
        assert stream == 1
        self.ends.append(whole)


def framed(*messages: bytes) -> bytes:
    return b"".join(b"\0" + len(message).to_bytes(4, "big") + message for message in messages)


def call(carrier: Carrier, limit: int = LIMIT) -> GrpcCall:
    return GrpcCall(carrier, 1, [(":path", "/a/b"), ("authorization", "x")], limit=limit)


@pytest.mark.parametrize("size", range(1, 22))
async def test_messages_arrive_whole_however_they_are_cut(size: int) -> None:
    one, content = call(Carrier()), framed(b"first", b"", b"third")
    for start in range(0, len(content), size):
        part = content[start : start + size]
        one.receive(part, len(part))
    one.close()
    assert [await one.read() for _ in range(4)] == [b"first", b"", b"third", None]


async def test_a_call_knows_its_path_and_its_metadata() -> None:
    one = call(Carrier())
    assert (one.path, one.metadata) == ("/a/b", [("authorization", "x")])


@pytest.mark.parametrize(
    ("content", "status"),
    [
        (b"\1" + framed(b"x")[1:], Code.UNIMPLEMENTED),
        (b"\0" + (LIMIT + 1).to_bytes(4, "big"), Code.RESOURCE_EXHAUSTED),
        (framed(b"y" * (LIMIT + 1)), Code.RESOURCE_EXHAUSTED),
    ],
)
async def test_what_cannot_be_taken_is_refused_before_it_is_kept(content: bytes, status: Code) -> None:
    carrier = Carrier()
    one = call(carrier)
    one.receive(framed(b"good") + content, 50)
    assert await one.read() == b"good"
    with pytest.raises(StreamRefusedError) as refused:
        await one.read()
    assert refused.value.status == status
    one.receive(b"z" * 20_000, 20_000)
    assert carrier.acknowledged > 20_000, "the window that other calls share is given back"


async def test_many_messages_are_read_a_few_in_a_round_of_the_loop() -> None:
    """A frame may hold thousands, and each may be a tenth of a millisecond's work."""
    one, rounds = call(Carrier(), limit=10), 0
    one.receive(framed(*[b""] * 1000), 5000)
    one.close()
    done = asyncio.Event()

    async def handle() -> None:
        while await one.read() is not None:
            pass
        done.set()

    handling = asyncio.ensure_future(handle())
    while not done.is_set():
        rounds += 1
        await asyncio.sleep(0)
    await handling
    assert rounds >= 200


async def test_a_call_says_how_many_messages_arrived() -> None:
    one = call(Carrier())
    content = framed(*[b"x"] * 20)
    assert one.receive(content, len(content)) == 20
    assert one.receive(content[:5], 5) == 0


async def test_the_window_opens_as_messages_are_read() -> None:
    carrier = Carrier()
    one = call(carrier, 1 << 20)
    one.receive(framed(b"m" * 40_000), 40_005)
    assert carrier.acknowledged == 0
    await one.read()
    assert carrier.acknowledged == 40_005


async def test_the_window_opens_for_a_message_larger_than_itself() -> None:
    carrier = Carrier()
    one = call(carrier, 1 << 20)
    one.receive(framed(b"m" * 100_000)[:60_000], 60_000)
    assert carrier.acknowledged == 60_000


async def test_what_nothing_read_is_counted_no_more_at_the_end() -> None:
    carrier = Carrier()
    one = call(carrier, 1 << 20)
    one.receive(framed(b"unread" * 1000), 6005)
    one.receive(framed(b"half of it" * 1000)[:5000], 5000)
    assert carrier.held == one.unread > 11_000
    one.lose()
    assert carrier.held == one.unread == 0


async def test_what_is_read_is_counted_no_more() -> None:
    carrier = Carrier()
    one = call(carrier, 1 << 20)
    content = framed(b"a" * 9000, b"b", b"c" * 50_000)
    for start in range(0, len(content), 7000):
        one.receive(content[start : start + 7000], min(7000, len(content) - start))
    assert one.unread > 59_000
    for _ in range(3):
        await one.read()
    assert carrier.held == one.unread == 0


async def test_messages_of_no_bytes_are_counted_too() -> None:
    carrier = Carrier()
    one = call(carrier)
    one.receive(framed(*[b""] * 1000), 5000)
    assert carrier.held > 100_000


async def test_a_call_that_holds_too_much_ends_with_that() -> None:
    carrier = Carrier()
    one = call(carrier, 1 << 20)
    one.receive(framed(b"m" * 9000)[:8000], 8000)
    one.overflow()
    assert one.unread == 0
    with pytest.raises(StreamRefusedError) as refused:
        await one.read()
    assert refused.value.status == Code.RESOURCE_EXHAUSTED


async def test_a_message_that_is_never_whole_ends_the_call() -> None:
    carrier = Carrier()
    one = GrpcCall(carrier, 1, [(":path", "/a/b")], limit=LIMIT, patience=0.02)
    one.receive(framed(b"x" * 50)[:20], 20)
    with pytest.raises(StreamRefusedError) as refused:
        await asyncio.wait_for(one.read(), 5)
    assert refused.value.code == "stream/message-too-slow"
    assert carrier.held == 0


async def test_messages_that_follow_each_other_without_a_gap_are_not_slow() -> None:
    one = GrpcCall(Carrier(), 1, [(":path", "/a/b")], limit=LIMIT, patience=0.1)
    content = framed(b"x" * 20)
    one.receive(content[:10], 10)
    for _ in range(30):
        one.receive(content[10:] + content[:10], 25)
        assert await one.read() == b"x" * 20
        await asyncio.sleep(0.01)


@pytest.mark.parametrize("size", [1, 3, 50, 999, 5000, 16_384])
async def test_no_more_window_is_given_back_than_was_taken(size: int) -> None:
    """One byte more for each message would let a client widen its window without end."""
    carrier = Carrier()
    one = call(carrier, 1 << 20)
    content = framed(*(b"m" * length for length in (0, 1, 70_000, 4096, 4097, 0, 16_379, 200_000)))
    taken = 0
    for start in range(0, len(content), size):
        part = content[start : start + size]
        one.receive(part, len(part) + 1)  # one byte of padding
        taken += len(part) + 1
        assert carrier.acknowledged <= taken
    for _ in range(8):
        await one.read()
    assert taken - 16_384 < carrier.acknowledged <= taken


@pytest.mark.parametrize(("value", "seconds"), [("50m", 0.05), ("50000u", 0.05), ("0S", 0.0)])
async def test_a_call_ends_when_the_time_that_its_client_gave_it_is_over(value: str, seconds: float) -> None:
    carrier, loop = Carrier(), asyncio.get_running_loop()
    one = GrpcCall(carrier, 1, [(":path", "/a/b"), ("grpc-timeout", value)], limit=LIMIT)
    began = loop.time()

    async def handler(call: GrpcCall) -> None:
        await call.read()

    one.route(lambda _: handler)
    assert one.task is not None
    await asyncio.wait([one.task], timeout=5)
    assert one.task.cancelled()
    assert loop.time() - began >= seconds
    ((headers, ends),) = carrier.said
    assert ends
    assert dict(headers)["grpc-status"] == str(int(Code.DEADLINE_EXCEEDED))


@pytest.mark.parametrize("value", ["", "5", "5x", "123456789S", "-1S", "1.5S"])
async def test_a_timeout_that_cannot_be_read_is_refused(value: str) -> None:
    carrier = Carrier()
    one = GrpcCall(carrier, 1, [("grpc-timeout", value)], limit=LIMIT)

    async def handler(_call: GrpcCall) -> None:
        pass

    one.route(lambda _: handler)
    assert one.task is None
    assert dict(carrier.said[0][0])["grpc-status"] == str(int(Code.INTERNAL))


async def test_a_call_that_is_refused_by_its_headers_starts_nothing_and_keeps_nothing() -> None:
    carrier = Carrier()
    one = call(carrier)

    def refuse(_call: GrpcCall) -> Handler:
        raise StreamRefusedError(Code.UNAUTHENTICATED, "token/missing", "no token")

    with pytest.raises(StreamRefusedError):
        one.route(refuse)
    assert one.task is None
    assert one.ended
    assert carrier.ends == [True]


async def test_a_write_waits_until_all_of_it_is_taken() -> None:
    carrier = Carrier(room=4)
    one = call(carrier)
    writing = asyncio.ensure_future(one.write(b"message"))
    await asyncio.sleep(0)
    assert not writing.done()
    for _ in range(8):
        carrier.room = 1
        one.writable()
        carrier.go()
        await asyncio.sleep(0)
    await asyncio.wait_for(writing, 1)
    assert carrier.sent == framed(b"message")
    assert carrier.said == [(RESPONSE, False)]


async def test_a_long_message_waits_for_its_turn_and_goes_in_pieces() -> None:
    carrier = Carrier()
    one = call(carrier)
    writing = asyncio.ensure_future(one.write(bytes(50_000), b"end"))
    await asyncio.sleep(0)
    assert carrier.sent == b""
    carrier.go(20_000)
    assert len(carrier.sent) == 20_000
    carrier.go(20_000)
    carrier.go(20_000)
    await asyncio.wait_for(writing, 1)
    assert carrier.sent == framed(bytes(50_000) + b"end")


async def test_a_message_of_which_nothing_is_sent_gives_way_to_the_status() -> None:
    carrier = Carrier()
    one = call(carrier)
    writing = asyncio.ensure_future(one.write(bytes(50_000)))
    await asyncio.sleep(0)
    writing.cancel()
    one.finish(Code.UNAVAILABLE)
    carrier.go()
    assert carrier.ends == [True]
    assert carrier.sent == b""


async def test_a_status_without_a_message_is_all_there_is() -> None:
    carrier = Carrier()
    one = call(carrier)
    one.finish(Code.UNAVAILABLE, "come back; 100 % später")
    one.finish(Code.OK)
    ((headers, ends),) = carrier.said
    assert ends
    assert carrier.ends == [True]
    assert dict(headers) == dict(RESPONSE) | {"grpc-status": "14", "grpc-message": "come back; 100 %25 sp%C3%A4ter"}


async def test_a_status_after_messages_is_in_the_trailers() -> None:
    carrier = Carrier()
    one = call(carrier)
    await one.write(b"m")
    one.finish(Code.OK)
    assert carrier.said[1] == ((("grpc-status", "0"), ("grpc-message", "")), True)


async def test_half_a_message_is_never_followed_by_a_status() -> None:
    carrier = Carrier(room=2)
    one = call(carrier)
    writing = asyncio.ensure_future(one.write(b"message"))
    await asyncio.sleep(0)
    writing.cancel()
    one.finish(Code.UNAVAILABLE)
    assert carrier.ends == [False]
    assert carrier.said == [(RESPONSE, False)]


async def test_a_handler_is_cancelled_when_the_client_goes() -> None:
    one, begun = call(Carrier()), asyncio.Event()

    async def handler(_call: GrpcCall) -> None:
        begun.set()
        await asyncio.Event().wait()

    one.route(lambda _: handler)
    await begun.wait()
    one.lose()
    assert one.task is not None
    with pytest.raises(asyncio.CancelledError):
        await one.task
    with pytest.raises(StreamRefusedError):
        await one.write(b"too late")
