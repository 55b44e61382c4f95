"""Follows `MESH_EVENTS` into the state of the cluster."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from services.ca.core.cluster_state import KINDS, ClusterState
from shared.eventlog.protocol import EventLog
from shared.eventlog.view import LogView
from shared.records.subjects import Streams

_SETTLE_SECONDS = 0.02
"""Shortest time between two notifications of a change, in seconds, however fast events arrive."""
WAIT_SECONDS = 1.5
"""Seconds that a request waits for the log to contain its pod; after that its requester has to retry."""


def cluster_state_view(events: EventLog, state: ClusterState, *, streams: Streams) -> LogView:
    """Return a view that folds the objects of all clusters that the CA needs into `state`; `run` it as a task."""
    return LogView(
        events,
        state,
        name="the events",
        subjects=[f"{streams.prefix}.events.*.{kind}.>" for kind in KINDS],
        streams=streams,
        settle=_SETTLE_SECONDS,
    )


async def wait_until(view: LogView, condition: Callable[[], bool]) -> None:
    """Wait until events make `condition` true, `WAIT_SECONDS` at most. Returns in any case."""
    try:
        async with asyncio.timeout(WAIT_SECONDS):
            while not condition():
                await view.changed()
    except TimeoutError:
        return
