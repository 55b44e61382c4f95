"""How much of a connection is read: by its own allowance, by its address', and never a client that does not read."""

from __future__ import annotations

import asyncio

import pytest
from h2.errors import ErrorCodes

from services.xds_edge.http2.frame_meter import PREFACE
from services.xds_edge.http2.frame_reader import EARNED, UNPROVEN_BURST, FrameReader
from shared.timing.token_bucket import TokenBucket
from tests.unit.xds_edge.http2.test_frame_meter import DATA, frame
from tests.unit.xds_edge.rig import Wire
from tests.waiting import eventually

EMPTY = frame(DATA)


class Reader:
    """Counts what it is fed."""

    def __init__(self, *, debt: float = 10.0, address_allowance: TokenBucket | None = None) -> None:
        self.frames = 0
        self.rounds = 0
        self.failed: tuple[ErrorCodes, str] | None = None
        self.wire = Wire()
        self.intake = FrameReader(self, debt=debt, address_allowance=address_allowance)
        self.intake.open(self.wire)
        self.intake.add(PREFACE, now())

    def feed(self, frame: bytes) -> None:
        assert frame
        self.frames += 1

    def fed(self) -> None:
        self.rounds += 1

    def fail(self, code: ErrorCodes, reason: str) -> None:
        self.failed = (code, reason)
        self.intake.close()


def now() -> float:
    return asyncio.get_running_loop().time()


async def test_what_is_allowed_is_parsed_at_once_and_written_out_once() -> None:
    reader = Reader()
    rounds = reader.rounds
    reader.intake.add(EMPTY * 20, now())
    assert reader.frames == 20
    assert reader.rounds == rounds + 1
    assert reader.wire.reading
    reader.intake.close()


async def test_more_frames_than_a_stranger_may_send_wait_and_so_does_the_network() -> None:
    reader = Reader()
    reader.intake.add(EMPTY * 1500, now())
    await eventually(lambda: reader.frames >= UNPROVEN_BURST, within=5, what="what is allowed at once is parsed")
    assert reader.frames < UNPROVEN_BURST + 20
    assert not reader.wire.reading
    reader.intake.close()


async def test_a_long_read_is_parsed_in_several_turns() -> None:
    reader = Reader()
    reader.intake.trust(TokenBucket(1e6, 1e6, now()))
    reader.intake.add(EMPTY * 1800, now())
    assert reader.frames < 50, "others have their turn first"
    await eventually(lambda: reader.frames == 1800, within=5, what="all are parsed")
    assert reader.wire.reading
    reader.intake.close()


async def test_one_that_has_paid_its_debt_is_read_on() -> None:
    reader = Reader()
    reader.intake.trust(TokenBucket(1000, 10, now()))
    reader.intake.add(EMPTY * 50, now())
    assert not reader.wire.reading
    await eventually(lambda: reader.frames == 50, within=5, what="all are parsed")
    assert reader.wire.reading
    assert reader.failed is None
    reader.intake.close()


async def test_one_that_stays_in_debt_is_sent_away() -> None:
    reader = Reader(debt=0.2)
    reader.intake.trust(TokenBucket(100, 10, now()))

    async def flood() -> None:
        while reader.failed is None:
            if reader.wire.reading:
                reader.intake.add(EMPTY * 100, now())
            await asyncio.sleep(0.001)

    await asyncio.wait_for(flood(), 5)
    assert reader.failed == (ErrorCodes.ENHANCE_YOUR_CALM, "flood")


async def test_what_is_sent_to_a_client_entitles_it_to_answers() -> None:
    """As a proxy does that acknowledges quickly, and widens its windows each time."""
    reader = Reader(debt=0.1)
    reader.intake.trust(TokenBucket(1, 2 * EARNED, now()))
    for _ in range(2000):
        reader.intake.earn()
        reader.intake.add(EMPTY * int(EARNED), now())
    assert reader.frames == 2000 * EARNED
    assert reader.wire.reading
    assert reader.failed is None
    reader.intake.close()


async def test_all_strangers_of_an_address_share_what_it_may_send() -> None:
    shared = TokenBucket(1, 40, now())
    first, second = Reader(address_allowance=shared), Reader(address_allowance=shared)
    first.intake.add(EMPTY * 30, now())
    second.intake.add(EMPTY * 40, now())
    assert first.frames == 30
    assert second.frames < 15
    assert not second.wire.reading
    second.intake.trust(TokenBucket(1000, 1000, now()))
    await eventually(lambda: second.frames == 40, within=5, what="one that has proven itself is no stranger")
    first.intake.close()
    second.intake.close()


async def test_a_client_that_does_not_read_is_not_read() -> None:
    reader = Reader()
    reader.intake.pause(paused=True)
    assert not reader.wire.reading
    reader.intake.pause(paused=False)
    assert reader.wire.reading
    reader.intake.close()


@pytest.mark.parametrize("debt_first", [True, False])
async def test_reading_goes_on_when_no_reason_against_it_is_left(debt_first: bool) -> None:  # noqa: FBT001
    reader = Reader()
    reader.intake.trust(TokenBucket(200, 10, now()))
    if debt_first:
        reader.intake.add(EMPTY * 30, now())
        reader.intake.pause(paused=True)
    else:
        reader.intake.pause(paused=True)
        reader.intake.add(EMPTY * 30, now())
    await eventually(lambda: reader.frames == 30, within=5, what="all are parsed")
    assert not reader.wire.reading
    reader.intake.pause(paused=False)
    assert reader.wire.reading
    reader.intake.close()
