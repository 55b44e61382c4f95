"""A log that went back, and an epoch that another leader begins while one is about to see that it did."""

from __future__ import annotations

from collections.abc import Sequence

import pytest

from services.ingestor.log.chain_position import ChainPosition
from shared.eventlog.memory import MemoryLog
from shared.eventlog.protocol import EMPTY, HEADER_EPOCH_RECORDS, Checkpoint, Draft
from shared.records import events
from shared.records.subjects import Streams
from tests.unit.compiler import objects

STREAMS = Streams()
SCOPE = STREAMS.cluster_scope(objects.CLUSTER)
FIRST, LATER = "6b49d1ef-1e4f98c4-m", "6b49d1f4-75a664dc-m"


def drafts(names: Sequence[str]) -> list[Draft]:
    told = [objects.service("red", name) for name in names]
    announced = {HEADER_EPOCH_RECORDS: str(len(names))}
    return [Draft(one.subject(STREAMS), events.encode(one), headers=announced) for one in told]


class Between(MemoryLog):
    """Another leader begins an epoch, beyond `beyond`, just after this log was asked where it ends."""

    beyond = -1

    async def tip(self, scope: str) -> Checkpoint:
        found = await super().tip(scope)
        if self.beyond >= 0:
            beyond, self.beyond = self.beyond, -1
            if beyond:
                await self.advance(beyond=beyond)
            await self.append(drafts("abcd"), scope=SCOPE, after=await super().tip(SCOPE), epoch=LATER)
        return found


@pytest.mark.parametrize(("beyond", "broken"), [(3, False), (0, True)], ids=["beyond all", "among what was read"])
async def test_an_epoch_that_another_has_begun_meanwhile_is_enough_if_it_lies_beyond_what_was_read(
    beyond: int, *, broken: bool
) -> None:
    """Simulation: a standby remembered that the log had been rolled back, and began another epoch when it led."""
    log = Between()
    await log.append(drafts("abc"), scope=SCOPE, after=EMPTY, epoch=FIRST)
    position = ChainPosition(log, SCOPE, retry=0.01)
    await position.recover()
    assert position.tip.sequence == 3
    log.roll_back(0)
    log.beyond = beyond
    await position.catch_up(position.tip)
    assert position.tip.epoch == LATER
    assert position.broken is broken
