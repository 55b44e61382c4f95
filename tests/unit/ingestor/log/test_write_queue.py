"""What waits for the writer is bounded, also while it waits for a kind that cannot be listed."""

from __future__ import annotations

import asyncio

from services.ingestor.core.change_set_assembler import ChangeSetAssembler
from services.ingestor.core.observations import KindAbsent, KindListed, ObjectDeleted, ObjectUpdated
from services.ingestor.log.write_queue import WriteQueue
from tests.unit.ingestor.objects import projected


async def test_what_is_gathered_is_the_newest_word_on_each_object_and_no_more() -> None:
    queue = WriteQueue(size=10, sets=ChangeSetAssembler(), clock=asyncio.get_running_loop().time, last_set=lambda _: "")
    gathering = asyncio.create_task(queue.gather(["Pod", "Service"], None, warn_every=60.0))
    await queue.put(KindListed(kind="Pod", resource_version="1", objects=()))
    for turn in range(500):
        await queue.put(ObjectUpdated(projected("flaps", rv=turn + 2)))
    gone = projected("gone")
    await queue.put(ObjectUpdated(gone))
    await queue.put(ObjectDeleted(kind="Pod", name=gone.name, uid=gone.uid, resource_version="600"))
    await queue.put(KindAbsent("Service"))
    (group,) = await gathering
    assert len(group.observations) == 4
    (flaps,) = [fact for fact in group.observations if isinstance(fact, ObjectUpdated)]
    assert flaps.object.resource_version == "501"
    assert {type(fact) for fact in group.observations} == {KindAbsent, KindListed, ObjectUpdated, ObjectDeleted}
