"""A follower of a stream neither skips nor repeats a record when its session ends at any moment."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from typing import Any, cast

import pytest

from shared.eventlog.jetstream import follower
from shared.eventlog.jetstream.follower import Follower
from shared.eventlog.jetstream.nats_connection import NatsSession
from shared.eventlog.jetstream.stream_api import StreamInfo
from shared.eventlog.own_records import OwnRecords
from shared.eventlog.protocol import ChainBrokenError, LogUnavailableError, Record

SESSION = cast("NatsSession", None)


class Stream:
    """What a server would deliver: records 1 to `last`, then the end of the session."""

    def __init__(self, last: int) -> None:
        self.last = last
        self.created = "first"
        self.time = 0
        self.failing: set[int] = set()
        """Records whose next check fails, because the connection breaks meanwhile."""

    async def deliver(self, _session: NatsSession, _stream: str, *, policy: dict[str, Any], **_: Any) -> Any:
        for sequence in range(policy["opt_start_seq"], self.last + 1):
            yield Record(subject="a", sequence=sequence, payload=b"", time=self.time + sequence, headers={})
        yield None
        raise LogUnavailableError("log/unavailable", "the connection was lost")

    async def stream_info(self, _session: NatsSession, _stream: str) -> StreamInfo:
        return StreamInfo(first=1, last=self.last, count=self.last, created=self.created)

    def read_filter(self, _subjects: str) -> Stream:
        return self

    async def is_own(self, record: Record) -> bool:
        if record.sequence in self.failing:
            self.failing.discard(record.sequence)
            raise LogUnavailableError("log/unavailable", "the connection was lost")
        return True


@pytest.fixture
def stream(monkeypatch: pytest.MonkeyPatch) -> Stream:
    made = Stream(3)
    monkeypatch.setattr(follower, "deliver", made.deliver)
    monkeypatch.setattr(follower, "stream_info", made.stream_info)
    return made


def following(stream: Stream, start: int = 1) -> Follower:
    return Follower("S", cast("OwnRecords", stream), start=start, subjects=">")


async def sequences(records: AsyncGenerator[Record | None]) -> list[int]:
    """Of the records until the session ends."""
    found: list[int] = []
    while True:
        try:
            record = await anext(records)
        except LogUnavailableError:
            return found
        if record is not None:
            found.append(record.sequence)


async def test_the_next_session_goes_on_where_the_last_one_ended(stream: Stream) -> None:
    read = following(stream)
    assert await sequences(read.read(SESSION)) == [1, 2, 3]
    stream.last = 5
    assert await sequences(read.read(SESSION)) == [4, 5]


async def test_a_record_whose_check_failed_is_delivered_again(stream: Stream) -> None:
    read = following(stream)
    stream.failing = {2}
    assert await sequences(read.read(SESSION)) == [1]
    assert await sequences(read.read(SESSION)) == [2, 3]


async def test_a_stream_that_was_created_again_is_followed_from_its_beginning(stream: Stream) -> None:
    read = following(stream, start=3)
    assert await sequences(read.read(SESSION)) == [3]
    stream.last, stream.created = 2, "second"
    assert await sequences(read.read(SESSION)) == [1, 2]


@pytest.mark.parametrize(("last", "shift"), [(2, 0), (4, 100)])
async def test_a_stream_that_was_rolled_back_is_noticed(stream: Stream, last: int, shift: int) -> None:
    read = following(stream)
    assert await sequences(read.read(SESSION)) == [1, 2, 3]
    stream.last, stream.time = last, shift
    with pytest.raises(ChainBrokenError):
        await anext(read.read(SESSION))
