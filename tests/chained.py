"""Records as the writer of a chain writes them: behind whatever stands in the scope."""

from __future__ import annotations

from shared.eventlog.protocol import Checkpoint, Draft, EventLog

EPOCH = "e1"


async def write_chained(log: EventLog, *drafts: Draft, scope: str = "", epoch: str = "") -> Checkpoint:
    """Append one batch where the scope (none: the subject of the first) stands; the first one begins an epoch."""
    scope = scope or drafts[0].subject
    tip = await log.tip(scope)
    return await log.append(drafts, scope=scope, after=tip, epoch=epoch or ("" if tip.epoch else EPOCH))
