"""What all streams of an edge share, and what one stream may take."""

from __future__ import annotations

import time
from collections.abc import Callable

import msgspec

from services.xds_edge.admission.token_origin import TokenOrigin
from services.xds_edge.counters import EdgeCounters
from services.xds_edge.proxy_status.reporter import StatusReporter
from services.xds_edge.sds.workload_secrets import WorkloadSecrets
from services.xds_edge.snapshot.fleet import Fleet
from services.xds_edge.xds.name_budget import NameLedgers
from services.xds_edge.xds.response_cache import ResponseCache


class StreamLimits(msgspec.Struct, frozen=True, kw_only=True):
    """What a stream may take."""

    write_timeout: float = 20.0
    """Seconds that a proxy may leave a response unread."""
    patience: float = 60.0
    """Seconds that a stream waits for its pod to be compiled."""


class StreamServices(msgspec.Struct, frozen=True, kw_only=True, eq=False):
    """What all streams of an edge share."""

    fleet: Fleet
    responses: ResponseCache
    secrets: WorkloadSecrets
    reporter: StatusReporter
    counters: EdgeCounters
    origin: TokenOrigin
    edge: str
    """Instance id."""
    names: NameLedgers = msgspec.field(default_factory=NameLedgers)
    limits: StreamLimits = StreamLimits()
    clock: Callable[[], int] = time.time_ns
    """Nanoseconds since 1970."""
    steady: Callable[[], float] = time.monotonic
    """Seconds of a clock that never goes back."""
