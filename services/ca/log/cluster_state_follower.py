"""The view of `MESH_EVENTS` that keeps the CA's facts current."""

from __future__ import annotations

from services.ca.core.cluster_state import KINDS, ClusterState
from shared.eventlog.protocol import EventLog
from shared.eventlog.view import LogView
from shared.records.subjects import Streams

_SETTLE_SECONDS = 0.02
"""Waiting requests look again at most this often, however fast events come."""


def cluster_state_view(events: EventLog, facts: ClusterState, *, streams: Streams) -> LogView:
    """A view of the objects of all clusters that the CA must know; `run` it as a task."""
    return LogView(
        events,
        facts,
        name="the events",
        subjects=[f"{streams.prefix}.events.*.{kind}.>" for kind in KINDS],
        streams=streams,
        settle=_SETTLE_SECONDS,
    )
