"""Waits for an event, or a version, to arrive at every proxy that it concerns; exit codes of the result."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncGenerator, Collection

from cli.arrival.log_tracker import tracked
from cli.arrival.tracker import Rollout, Tracker
from cli.history.log_source import LogSource
from cli.history.object_states import LostHistoryError, newest_event
from cli.history.recompile import compiled, compiler_of
from cli.history.timeline import Timeline
from shared.eventlog.protocol import Record
from shared.records import chunked_payload
from shared.records.events import ObjectKey
from shared.records.proxy_status import status_in
from shared.records.snapshot import decode_commit

REFUSED, BAD_INPUT, TIMED_OUT = 1, 2, 124
"""Exit codes; 0 is complete."""

_PATIENCE = 1.0
"""Seconds without a version before checking whether the events change anything that is published."""


def exit_code(found: Rollout | None) -> int:
    """0 if complete, 1 if refused, 124 if not in time. None means that no version holds the event."""
    if found is None:
        return TIMED_OUT
    return REFUSED if found.refusals else 0 if found.complete else TIMED_OUT


async def arrived(source: LogSource, sequence: int, *, within: float) -> Rollout | None:
    """The progress of the first version with the event when it is complete, refused, or `within` seconds are over.

    None if no version holds it by then. An event that changes no configuration is in no version, and concerns no proxy.
    Proxies are counted from the version before it on: one that is disconnected, or reconnects later, is awaited.
    """
    async with _following(source, await _before(source, sequence)) as (tracker, changed):
        version: int | None = None
        try:
            async with asyncio.timeout(within):
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(min(_PATIENCE, within / 2)):
                        version = await _version_of(tracker, sequence, changed)
                if version is None and await changes_nothing(source):
                    return tracker.rollout(after=tracker.snapshot.version, until=tracker.snapshot.version)
                version = version or await _version_of(tracker, sequence, changed)
                return await _settled(tracker, version - 1, version, changed)
        except TimeoutError:
            return None if version is None else tracker.rollout(after=version - 1, until=version)


async def _before(source: LogSource, sequence: int) -> Tracker:
    """A tracker that begins at the newest version without the event at `sequence`.

    If the log does not keep that version any more, it begins at the newest keyframe. The changes up to it are not
    known, so every proxy in it is concerned.
    """
    timeline = Timeline(source)
    since = await timeline.version_before(sequence)
    try:
        if since:
            return await tracked(source, since=since)
        if await timeline.is_whole():
            return await tracked(source, from_nothing=True)
    except LostHistoryError:
        pass
    return await tracked(source, everybody=True)


async def left_out(source: LogSource, keys: Collection[ObjectKey]) -> list[str]:
    """Which of these objects the newest version leaves out, in whole or in part, each with its reason."""
    timeline = Timeline(source)
    snapshot = await timeline.snapshot(await timeline.head())
    return [f"{one.key}: {one.sentence} [{one.code}]" for one in snapshot.quarantine if one.key in keys]


async def settled(source: LogSource, tracker: Tracker, *, after: int, until: int, within: float) -> Rollout:
    """The progress of versions when they are complete, refused, or `within` seconds are over."""
    async with _following(source, tracker) as (_, changed):
        try:
            async with asyncio.timeout(within):
                return await _settled(tracker, after, until, changed)
        except TimeoutError:
            return tracker.rollout(after=after, until=until)


async def changes_nothing(source: LogSource) -> bool:
    """Whether the events after the newest version change nothing that is published."""
    timeline = Timeline(source)
    if await source.snapshots.last(source.streams.snapshot_subject) is None:
        return False  # nothing is published yet
    newest = await newest_event(source)
    compiler = compiler_of(source.about, await timeline.state(newest))
    ours, published = compiled(compiler), await timeline.snapshot(await timeline.head())
    return all(
        getattr(ours, part) == getattr(published, part)
        for part in ("views", "proxies", "quarantine", "mesh_namespaces")
    )


async def _version_of(tracker: Tracker, sequence: int, changed: asyncio.Event) -> int:
    while (version := tracker.version_of(sequence)) is None:
        changed.clear()
        await changed.wait()
    return version


async def _settled(tracker: Tracker, after: int, until: int, changed: asyncio.Event) -> Rollout:
    while True:
        changed.clear()
        found = tracker.rollout(after=after, until=until)
        if found.complete or found.refusals:
            return found
        await changed.wait()


@contextlib.asynccontextmanager
async def _following(source: LogSource, tracker: Tracker) -> AsyncGenerator[tuple[Tracker, asyncio.Event]]:
    """Feed a tracker with new records, starting a little before those that it has taken."""
    _, statuses = await source.status.bounds()
    changed = asyncio.Event()
    for record in await source.status.last_per_subject(source.streams.all_status):
        _take(tracker, record, source)
    tasks = [
        asyncio.ensure_future(_commits(source, tracker, changed)),
        asyncio.ensure_future(_statuses(source, tracker, statuses + 1, changed)),
    ]
    try:
        yield tracker, changed
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


async def _commits(source: LogSource, tracker: Tracker, changed: asyncio.Event) -> None:
    start = await Timeline(source).place_after(tracker.snapshot.version)
    assembler = chunked_payload.Assembler()
    async for record in source.snapshots.follow(start=start, subjects=source.streams.snapshot_subject):
        payload = assembler.feed(record)
        if payload is not None:
            commit = decode_commit(payload)
            if commit.version > tracker.snapshot.version:
                tracker.take_commit(commit)
                changed.set()


async def _statuses(source: LogSource, tracker: Tracker, start: int, changed: asyncio.Event) -> None:
    async for record in source.status.follow(start=start, subjects=source.streams.all_status):
        _take(tracker, record, source)
        changed.set()


def _take(tracker: Tracker, record: Record, source: LogSource) -> None:
    status = status_in(record, source.streams)
    if status is not None:
        tracker.take_status(status)
