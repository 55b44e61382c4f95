"""A record that was changed is damage, whatever it looks like by now."""

from __future__ import annotations

import pytest

from services.ingestor.log.chain_position import ChainPosition
from shared.eventlog.memory import MemoryLog
from shared.eventlog.protocol import EMPTY, Draft
from shared.records import events
from shared.records.subjects import Streams
from tests.unit.compiler import objects

STREAMS = Streams()
SCOPE = STREAMS.cluster_scope(objects.CLUSTER)


@pytest.mark.parametrize("index", [1, 2, 3], ids=["the first", "in the middle", "the last"])
async def test_a_changed_record_that_looks_like_one_of_a_newer_build_calls_for_a_new_epoch(index: int) -> None:
    """And not for a newer build, which would never come."""
    log = MemoryLog()
    told = [objects.service("red", name) for name in ("one", "two", "three")]
    drafts = [Draft(event.subject(STREAMS), events.encode(event)) for event in told]
    await log.append(drafts, scope=SCOPE, after=EMPTY, epoch="e1")
    changed = events.encode(told[index - 1]).replace(b'"Service"', b'"Serrice"')
    assert changed != events.encode(told[index - 1])
    log.corrupt(index, changed)
    position = ChainPosition(log, SCOPE, retry=0.01)
    await position.recover()
    assert position.broken
    assert not position.newer
