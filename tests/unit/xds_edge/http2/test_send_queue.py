"""What of a message has to wait is sent in pieces that are views of it, as turns come and windows open."""

from __future__ import annotations

import asyncio

import pytest

from services.xds_edge.http2.send_queue import SendQueue, pieces

PREFIX = b"\0\0\0\0\5"


class Sender:
    """Takes as much as `room` allows."""

    def __init__(self, room: int = 1 << 30) -> None:
        self.room = room
        self.sent: list[bytes | memoryview] = []
        self.queued = 0

    def send(self, stream: int, content: bytes | memoryview) -> int:
        assert stream == 1
        part = content[: self.room]
        self.sent.append(part)
        self.room -= len(part)
        return len(part)

    def queue(self, send_queue: SendQueue) -> None:  # noqa: ARG002 (a sender's signature)
        self.queued += 1

    @property
    def heard(self) -> bytes:
        return b"".join(self.sent)


async def test_the_pieces_are_the_message_and_copies_of_its_beginning_alone() -> None:
    head, tail = bytes(100_000), b"tail"
    sender = Sender()
    send_queue = SendQueue(sender, 1, pieces(PREFIX, (head, tail)), begun=False)
    assert send_queue.proceed(1 << 30) == (len(PREFIX) + len(head) + len(tail), False)
    assert sender.heard == PREFIX + head + tail
    views = [part for part in sender.sent if isinstance(part, memoryview) and part.obj is head]
    assert sum(map(len, views)) > 95_000
    assert send_queue.sent.done()


async def test_no_more_is_sent_than_a_go_allows() -> None:
    sender = Sender()
    send_queue = SendQueue(sender, 1, [bytes(1000), bytes(1000)], begun=False)
    assert [send_queue.proceed(800) for _ in range(3)] == [(800, True), (800, True), (400, False)]


async def test_one_whose_window_is_shut_wants_no_other_go_until_it_opens() -> None:
    sender = Sender(room=300)
    send_queue = SendQueue(sender, 1, [bytes(1000)], begun=False)
    send_queue.queue()
    assert send_queue.proceed(800) == (300, False)
    assert not send_queue.sent.done()
    sender.room = 10_000
    send_queue.queue()
    send_queue.queue()
    assert sender.queued == 2, "one that is in the line does not ask again"
    assert send_queue.proceed(800) == (700, False)
    assert send_queue.sent.done()


async def test_only_what_waits_for_others_is_a_delay(monkeypatch: pytest.MonkeyPatch) -> None:
    loop, now = asyncio.get_running_loop(), 100.0
    monkeypatch.setattr(loop, "time", lambda: now)
    sender = Sender(room=0)
    send_queue = SendQueue(sender, 1, [bytes(1000)], begun=False)
    send_queue.queue()
    now = 103.0
    assert send_queue.delay == 3.0
    send_queue.proceed(800)
    now = 110.0
    assert send_queue.delay == 3.0, "now it waits for its client"


async def test_one_that_is_dropped_sends_nothing_more() -> None:
    sender = Sender()
    send_queue = SendQueue(sender, 1, [bytes(1000)], begun=False)
    send_queue.queue()
    send_queue.drop()
    assert send_queue.proceed(800) == (0, False)
    assert sender.heard == b""
