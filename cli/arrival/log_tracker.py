"""Builds a tracker from the log as it is now: commits since a version, and the newest statuses of every proxy."""

from __future__ import annotations

import contextlib

from cli.arrival.tracker import Tracker
from cli.history.log_source import LogSource
from cli.history.timeline import Timeline
from shared.records import chunked_payload
from shared.records.proxy_status import status_in


async def tracked(source: LogSource, *, since: int = 0, from_nothing: bool = False, everybody: bool = False) -> Tracker:
    """A tracker that has taken the commits after version `since` (0: after the newest keyframe) and every status.

    `from_nothing`: take every commit that the log keeps; the first concerns every proxy in it. `everybody`: the
    keyframe concerns every proxy in it, because what it changed is not known.
    """
    timeline, tracker = Timeline(source), Tracker(from_nothing=from_nothing or everybody)
    if from_nothing:
        pass
    elif since:
        tracker.take_commit((await timeline.snapshot(since)).keyframe())
    else:
        with contextlib.suppress(chunked_payload.BlobError):
            record = await source.keyframes.last(source.streams.keyframe_subject)
            if record is not None:
                tracker.take_commit((await timeline.snapshot(chunked_payload.version_of(record))).keyframe())
    async for found in timeline.commits(after=tracker.snapshot.version):
        if found.commit.version > tracker.snapshot.version:
            tracker.take_commit(found.commit)
    # The log keeps a few statuses of each proxy. In order: the first to acknowledge a version gives its arrival time.
    async for record in source.status.read(subjects=source.streams.all_status):
        status = status_in(record, source.streams)
        if status is not None:
            tracker.take_status(status)
    return tracker
