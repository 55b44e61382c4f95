"""What waits for the writer is bounded, also while it waits for a kind that cannot be listed."""

from __future__ import annotations

import asyncio

from services.ingestor.core.change_sets import ChangeSets
from services.ingestor.core.observations import Absent, Listed, Observed, Vanished
from services.ingestor.log.write_queue import Inbox
from tests.unit.ingestor.objects import projected


async def test_what_is_gathered_is_the_newest_word_on_each_object_and_no_more() -> None:
    inbox = Inbox(size=10, sets=ChangeSets(), clock=asyncio.get_running_loop().time, last_set=lambda _: "")
    gathering = asyncio.create_task(inbox.gather(["Pod", "Service"], None, complain=60.0))
    await inbox.put(Listed(kind="Pod", resource_version="1", objects=()))
    for turn in range(500):
        await inbox.put(Observed(projected("flaps", rv=turn + 2)))
    gone = projected("gone")
    await inbox.put(Observed(gone))
    await inbox.put(Vanished(kind="Pod", name=gone.name, uid=gone.uid, resource_version="600"))
    await inbox.put(Absent("Service"))
    (group,) = await gathering
    assert len(group.facts) == 4
    (flaps,) = [fact for fact in group.facts if isinstance(fact, Observed)]
    assert flaps.object.resource_version == "501"
    assert {type(fact) for fact in group.facts} == {Absent, Listed, Observed, Vanished}
