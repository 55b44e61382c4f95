"""Reads facts of a mesh's health from the log. Some need a second read: that a lease is not renewed, for example."""

from __future__ import annotations

import asyncio
import time
from typing import NamedTuple

from cli.arrival.log_tracker import tracked
from cli.arrival.tracker import Tracker
from cli.health.facts import LeaseState, LogFacts, RotationState
from cli.history.log_source import LogSource
from cli.state.mesh_status import mesh_status
from cli.state.service_lag import ServiceLag, lags
from shared.io.decoding import UndecodableError, decode
from shared.records.certificate_records import AuditNote, CorruptMessageError, decode_bundle, decode_note
from shared.service.lease import TTL, Tenure

LATER = 1.0
"""Seconds until the second read of waiting events and requests."""
_LOOK = 0.1
_LATE = 0.4
"""Seconds that a renewal may be late."""
_LONGEST = 2.0
"""Maximum wait for a renewal, seconds, whatever time to live the record has."""
_SERVICES = ("ingestor", "compiler")
"""Services of which one replica leads."""


class _LeaseReading(NamedTuple):
    service: str
    sequence: int
    tenure: Tenure | None
    renewed: bool
    """Whether it was renewed in time, by this machine's clock."""


async def read(source: LogSource, cache: dict[int, bool]) -> LogFacts:
    """Read all facts. `cache`: see `lags`. Raises `EventLogError`."""
    began = time.monotonic()
    leases = [await _lease(source, service) for service in _SERVICES] if source.leases is not None else None
    tracker, behind, unpublished, unsigned = await _waiting(source, cache, began)
    return LogFacts(
        standing=await mesh_status(source, tracker),
        lags=behind,
        leases=None if leases is None else [await _state(source, lease, began) for lease in leases],
        rotation=await _rotation(source),
        unpublished=unpublished,
        unsigned=unsigned,
    )


# Waiting events and requests


async def _waiting(
    source: LogSource, cache: dict[int, bool], began: float
) -> tuple[Tracker, list[ServiceLag], int, int]:
    """Proxies, lags, and the numbers of events and of signing requests that wait at both reads."""
    tracker = await tracked(source)
    behind = await lags(source, tracker, cache)
    if not any(_behind(behind, service) for service in ("compiler", "ca")) or source.leases is None:
        # A file does not change, so one read is enough.
        return tracker, behind, _behind(behind, "compiler"), 0
    head, requests = tracker.snapshot.version, await _oldest_request(source)
    await asyncio.sleep(max(0.0, began + LATER - time.monotonic()))
    tracker = await tracked(source)
    behind = await lags(source, tracker, cache)
    unpublished = _behind(behind, "compiler") if tracker.snapshot.version == head else 0
    unsigned = _behind(behind, "ca") if requests == await _oldest_request(source) else 0
    return tracker, behind, unpublished, unsigned


def _behind(behind: list[ServiceLag], service: str) -> int:
    return sum(one.behind for one in behind if one.service == service)


async def _oldest_request(source: LogSource) -> int:
    return (await source.requests.bounds())[0] if source.requests is not None else 0


# Leases


async def _lease(source: LogSource, service: str) -> _LeaseReading:
    assert source.leases is not None
    name = f"ingestor-{source.about.cluster}" if service == "ingestor" else service
    record = await source.leases.last(source.streams.lease_subject(name))
    if record is None:
        return _LeaseReading(service, 0, None, renewed=False)
    try:
        tenure = decode(Tenure, record.payload)
    except UndecodableError:
        tenure = None
    ttl = tenure.ttl if tenure is not None else 0.0
    age = (time.time_ns() - record.time) / 1e9
    return _LeaseReading(service, record.sequence, tenure, renewed=ttl > 0 and -_LATE < age < ttl)


async def _state(source: LogSource, first: _LeaseReading, began: float) -> LeaseState:
    """The state of a lease. No two clocks are compared: one that seems expired is watched until it must be."""
    lease = first
    until = began + min(_LONGEST, (first.tenure.ttl if first.tenure is not None else 0.0) or TTL) + _LATE
    while not lease.renewed and lease.sequence == first.sequence and time.monotonic() < until:
        await asyncio.sleep(_LOOK)
        lease = await _lease(source, first.service)
    tenure = lease.tenure
    held = tenure is not None and tenure.ttl > 0 and (lease.renewed or lease.sequence != first.sequence)
    return LeaseState(
        service=first.service,
        holder=tenure.instance if tenure is not None else "",
        vacant=not held,
        trouble=tenure.trouble if tenure is not None and held else "",
    )


# Roots


async def _rotation(source: LogSource) -> RotationState | None:
    streams = source.streams
    bundle = await source.certs.last(streams.bundle_subject(source.about.trust_domain))
    newest = await source.certs.last(streams.audit_subject("rotation"))
    if bundle is None:
        return None
    try:
        roots = [member.name for member in decode_bundle(bundle.payload).members]
        note = decode_note(newest.payload) if newest is not None else AuditNote(what="rotation", code="rotation/steady")
    except CorruptMessageError:
        return None
    return RotationState(
        roots=roots,
        step=note.code.partition("/")[2],
        why=note.why,
        waiting=note.waiting,
        count=note.waiting_count,
        since=newest.time if newest is not None else 0,
    )
