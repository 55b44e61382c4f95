"""Wait for one event to arrive: in a version, and at every proxy that it concerns."""

from __future__ import annotations

import asyncio

from cli.history.source import Source
from cli.history.standing import tracked
from cli.rollout import Rollout, Tracker
from shared import blob
from shared.snapshot import decode_commit
from shared.status import decode_status


async def arrived(source: Source, sequence: int, *, within: float) -> Rollout | None:
    """How far the first version with the event has come when it is complete, refused, or the time is over.

    None if no version holds it by then.
    """
    _, commits = await source.snapshots.bounds()
    _, statuses = await source.status.bounds()
    tracker = await tracked(source)
    news = asyncio.Event()
    tasks = [
        asyncio.ensure_future(_commits(source, tracker, commits + 1, news)),
        asyncio.ensure_future(_statuses(source, tracker, statuses + 1, news)),
    ]
    version: int | None = None
    before = 0
    try:
        async with asyncio.timeout(within):
            while True:
                news.clear()
                version = version or tracker.version_of(sequence)
                if version is not None:
                    before = version - 1
                    found = tracker.rollout(after=before, until=version)
                    if found.complete or found.refusals:
                        return found
                await news.wait()
    except TimeoutError:
        return None if version is None else tracker.rollout(after=before, until=version)
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


async def _commits(source: Source, tracker: Tracker, start: int, news: asyncio.Event) -> None:
    assembler = blob.Assembler()
    async for record in source.snapshots.follow(start=start, subjects=source.streams.snapshot_subject):
        payload = assembler.feed(record)
        if payload is not None:
            commit = decode_commit(payload)
            if commit.version > tracker.snapshot.version:
                tracker.take_commit(commit)
                news.set()


async def _statuses(source: Source, tracker: Tracker, start: int, news: asyncio.Event) -> None:
    async for record in source.status.follow(start=start, subjects=source.streams.all_status):
        tracker.take_status(decode_status(record.payload))
        news.set()
