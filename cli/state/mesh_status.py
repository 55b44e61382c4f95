"""The present state of a mesh, from the log alone: proxies, certificates, streams, left-out objects, the pin."""

from __future__ import annotations

import time
from typing import NamedTuple

import msgspec

from cli.arrival.tracker import Tracker
from cli.history.log_source import NOUNS, LogSource
from cli.history.naming import who
from cli.history.object_states import complete_from, newest_event
from cli.history.timeline import Timeline, logged_event_in
from shared.io.decoding import UndecodableError, decode
from shared.names import MESH_CONFIG
from shared.records import certificate_records
from shared.records.events import APPLIED
from shared.records.pins import PIN_KIND, PIN_NAME, Pin
from shared.records.proxy_status import ProxyStatus, state_of
from shared.records.snapshot import Snapshot

_CERTIFICATES_READ = 5000
"""Number of newest records of the audit trail that are read."""


class ProxyState(msgspec.Struct, frozen=True):
    """One proxy."""

    proxy: str
    """`NS/POD`."""
    state: str
    """`in sync`, `behind`, `refusing`, `gone` or `never connected`."""
    reason: str
    """Why it is not in sync."""
    acknowledged: int
    edge: str
    workload_class: str
    certificate_until: int = 0
    """When the certificate that it acknowledged ends, seconds since 1970; 0 if it has none."""


class CertificateState(msgspec.Struct, frozen=True):
    """The certificates that are valid now."""

    valid: int
    soonest: int
    """When the first of them ends, seconds since 1970; 0 if there is none."""
    soonest_of: str
    refused: int
    """Refusals in the part of the audit trail that was read."""


class StreamBounds(msgspec.Struct, frozen=True):
    """One stream."""

    name: str
    first: int
    last: int


class LeftOut(NamedTuple):
    """An object that the compiler has left out."""

    object: str
    code: str
    sentence: str


class MeshStatus(msgspec.Struct, frozen=True):
    """The state of a mesh."""

    version: int
    published: int
    """When the version was published, nanoseconds since 1970."""
    build: str
    events: int
    """Sequence of the newest event: those after `version` changed no configuration, or are being compiled."""
    proxies: list[ProxyState]
    quarantine: list[LeftOut]
    certificates: CertificateState
    streams: list[StreamBounds]
    rebuilt_from: int
    """The oldest version that can be rebuilt; 0 if there is none."""
    objects_from: int
    """First sequence from which all objects are known; above the newest event if the log no longer has them."""
    pinned: str
    """The pin in words; empty if the mesh is not pinned."""
    mesh_config: bool
    """Whether there is a MeshConfig; without one the defaults are in force."""
    foreign: list[tuple[str, int, str]]
    """Stream, the number of foreign records read from it, and a description of the newest."""


async def mesh_status(source: LogSource, tracker: Tracker) -> MeshStatus:
    """Read the state, with a tracker that has just been built (`tracked`)."""
    last = await source.snapshots.last(source.streams.snapshot_subject)
    streams: list[StreamBounds] = []
    for noun in NOUNS:
        first, end = await source.stream(noun).bounds()
        streams.append(StreamBounds(source.stream(noun).name, first, end))
    return MeshStatus(
        version=tracker.snapshot.version,
        published=last.time if last is not None else 0,
        build=tracker.snapshot.build,
        events=await newest_event(source),
        proxies=proxy_states(tracker),
        quarantine=[LeftOut(str(one.key), one.code, one.sentence) for one in tracker.snapshot.quarantine],
        certificates=await _certificates(source, tracker),
        streams=streams,
        rebuilt_from=await Timeline(source).oldest(),
        objects_from=await complete_from(source),
        pinned=await pinned(source),
        mesh_config=await _has_mesh_config(source),
        foreign=[(name, count, source.foreign.newest[name]) for name, count in sorted(source.foreign.counts.items())],
    )


async def _has_mesh_config(source: LogSource) -> bool:
    subject = source.streams.event_subject(source.about.cluster, "MeshConfig", source.about.namespace, MESH_CONFIG)
    record = await source.events.last(subject)
    found = None if record is None else logged_event_in(record)
    return found is not None and found.event.operation == APPLIED


def proxy_states(tracker: Tracker) -> list[ProxyState]:
    """The state of every proxy of the newest version."""
    snapshot: Snapshot = tracker.snapshot
    waiting = set(tracker.rollout(after=0, until=snapshot.version).waiting)
    found: list[ProxyState] = []
    for key in sorted(snapshot.proxies):
        status = tracker.status.get(key)
        state, reason = _state(status, behind=key in waiting)
        found.append(
            ProxyState(
                proxy=key.partition("/")[2],
                state=state,
                reason=reason,
                acknowledged=status.acked if status else 0,
                edge=status.edge if status else "",
                workload_class=snapshot.proxies[key].workload_class,
                certificate_until=status.certificate_until if status else 0,
            )
        )
    return found


def _state(status: ProxyStatus | None, *, behind: bool) -> tuple[str, str]:
    state = state_of(status, behind=behind)
    if status is None:
        return state, "no edge has seen it; is its pod running?"
    if state == "gone":
        return state, f"left {status.edge} {_ago(status.since)}"
    if state == "refusing":
        said = (
            f"{type_url.rpartition('.')[2]} of {one.refusal.version}: {one.refusal.message}"
            for type_url, one in sorted(status.types.items())
            if one.refusal is not None
        )
        return state, next(said)
    if state == "behind":
        return state, f"holds {status.acked}; its edge {status.stuck}" if status.stuck else f"holds {status.acked}"
    return state, ""


def _ago(moment: int) -> str:
    seconds = max(0, (time.time_ns() - moment) // 1_000_000_000)
    return f"{seconds} s ago" if seconds < 120 else f"{seconds // 60} min ago"


async def pinned(source: LogSource) -> str:
    """The pin in force in words; empty if there is none."""
    record = await source.events.last(source.streams.event_subject(source.about.cluster, PIN_KIND, "", PIN_NAME))
    found = logged_event_in(record) if record is not None else None
    if found is None or found.event.operation != APPLIED or found.event.object is None:
        return ""
    try:
        pin = decode(Pin, found.event.object)
    except UndecodableError:
        return ""
    return f"pinned to version {pin.version} at {found.sequence} by {who(found)}: {pin.why or 'no reason given'}"


async def _certificates(source: LogSource, tracker: Tracker) -> CertificateState:
    first, last = await source.certs.bounds()
    newest: dict[str, certificate_records.SigningAnswer] = {}
    refused = 0
    async for record in source.certs.read(
        start=max(first, last - _CERTIFICATES_READ), subjects=f"{source.about.prefix}.certs.issued.>"
    ):
        try:
            answer = certificate_records.decode_answer(record.payload)
        except certificate_records.CorruptMessageError:
            continue
        if answer.refused:
            refused += 1
        elif _lives(answer.pod, source, tracker):
            newest[answer.pod] = answer
    now = time.time()
    valid = [answer for answer in newest.values() if answer.not_after > now]
    soonest = min(valid, key=lambda answer: answer.not_after, default=None)
    return CertificateState(
        valid=len(valid),
        soonest=soonest.not_after if soonest else 0,
        soonest_of=soonest.pod if soonest else "",
        refused=refused,
    )


def _lives(pod: str, source: LogSource, tracker: Tracker) -> bool:
    """Whether a certificate's pod still exists: certificates of deleted pods are not renewed."""
    return f"{source.about.cluster}/{pod}" in tracker.snapshot.proxies or pod.startswith(f"{source.about.namespace}/")
