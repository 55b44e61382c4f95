"""What each stream promises: how long it keeps records, what it refuses, how it dedupes.

Apart from the implementations, because the in-memory log must refuse and forget what JetStream does (ages apart:
nothing grows old in a test).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Literal

import msgspec

from shared.eventlog import record_rules
from shared.eventlog.protocol import Record
from shared.records.pins import SUBJECT_END
from shared.records.subjects import Streams

Retention = Literal["limits", "work_queue"]

LOOKING = frozenset({"xds-edge", "injector", "operator", "reader"})
"""Users that create no stream: services that every pod can reach, and people."""

Judge = Callable[[Record], str]
"""Why what a record says does not belong under its subject; empty: it does."""


def _believed(_record: Record) -> str:
    return ""


class StreamSpec(msgspec.Struct, frozen=True):
    """One stream."""

    name: str
    subjects: tuple[str, ...]
    description: str
    retention: Retention = "limits"
    """`work_queue`: a record is gone once a taker is done with it."""
    max_per_subject: int = 0
    """Newest records kept of each subject; 0: all."""
    max_age: float = 0.0
    """Seconds that a record is kept; 0: for ever."""
    duplicate_window: float = 120.0
    """Seconds in which a message id is remembered."""
    acknowledge_within: float = 5.0
    """Seconds that a taker has for a job before another may have it (work queues only)."""
    replicas: int = 1
    owner: str = ""
    """The user that may change its configuration, trim it if it is `trimmed`, and take jobs off it if it is a queue."""
    trimmed: bool = False
    """Whether its owner forgets what lies behind a checkpoint."""
    chained: tuple[str, ...] = ()
    """Subjects whose records are chained: one without a chain is foreign (`shared.eventlog.foreign`)."""
    chain_tokens: int = 0
    """Tokens of a subject that name its chain, where chains span subjects; 0: each subject is a chain."""
    guests: tuple[str, ...] = ()
    """Chained subjects that others than the writers of the chain may write to."""
    judge: Judge = _believed
    """Of what unchained records and guests' records say."""
    fleeting: bool = False
    """Whether it is worth nothing once every server has stopped: one in memory, as older builds made it, is let be."""


class StreamSettings(msgspec.Struct, frozen=True):
    """What differs between installations."""

    replicas: int = 1
    """Copies of each stream; odd. 1 on one node, 3 on a cluster."""
    durable: bool = False
    """Whether streams that can lose what they acknowledged are refused; see `shared.eventlog.durable`."""
    certificates_kept: float = 90 * 86400.0
    """Seconds that issued certificates are kept: the audit trail. Bundles share the stream, and a CA publishes its
    bundle anew at each start, so that it never ages out under a living mesh."""
    requests_kept: float = 600.0
    """Seconds after which a signing request that no CA took is dropped: its token is then near its end."""


_DAY = 86400.0


def specs(streams: Streams, settings: StreamSettings | None = None) -> dict[str, StreamSpec]:
    """The streams of one mesh by name.

    `MESH_EVENTS` has no limit by age: live objects must not vanish. All streams refuse new records when they are
    full instead of dropping old ones, except where `max_per_subject` says that only the newest matter. All are on
    disks: one in memory that every server has lost elects no leader before the last of them is back (tried: of three
    servers, two were not enough), and without leases nothing is written.
    """
    settings = settings or StreamSettings()
    replicas = settings.replicas
    prefix = streams.prefix
    every = (
        StreamSpec(
            name=streams.events,
            owner="ingestor",
            trimmed=True,
            subjects=(streams.all_events,),
            description="Every input that can change a proxy's configuration.",
            chained=(streams.all_events,),
            chain_tokens=3,
            guests=(f"{prefix}.events.*{SUBJECT_END}",),
            judge=record_rules.event,
            replicas=replicas,
        ),
        StreamSpec(
            name=streams.snapshots,
            owner="compiler",
            trimmed=True,
            subjects=(streams.snapshot_subject,),
            chained=(streams.snapshot_subject,),
            description="The commits of the leading compiler.",
            replicas=replicas,
        ),
        StreamSpec(
            name=streams.keyframes,
            owner="compiler",
            trimmed=True,
            subjects=(streams.keyframe_subject,),
            chained=(streams.keyframe_subject,),
            description="Whole snapshots, so that nobody replays from zero.",
            replicas=replicas,
        ),
        StreamSpec(
            name=streams.csrs,
            owner="ca",
            subjects=(f"{prefix}.csrs.>",),
            description="Signing requests that wait for a CA.",
            retention="work_queue",
            max_age=settings.requests_kept,
            judge=record_rules.request,
            replicas=replicas,
        ),
        StreamSpec(
            name=streams.certs,
            owner="ca",
            subjects=(f"{prefix}.certs.>",),
            description="Certificates and trust bundles, public parts only.",
            max_age=settings.certificates_kept,
            chained=(streams.all_bundles,),
            judge=record_rules.certificate,
            replicas=replicas,
        ),
        StreamSpec(
            name=streams.status,
            owner="ingestor",
            subjects=(streams.all_status,),
            description="What each proxy holds and refused; the last few reports of each.",
            max_per_subject=5,
            max_age=7 * _DAY,
            judge=record_rules.status,
            replicas=replicas,
        ),
        StreamSpec(
            name=streams.pins,
            owner="ingestor",
            subjects=(streams.all_pins,),
            description="Which pin is in force: what Kubernetes cannot tell when the events are derived anew.",
            max_per_subject=5,
            judge=record_rules.pin,
            replicas=replicas,
        ),
        StreamSpec(
            name=streams.leases,
            owner="ingestor",
            subjects=(f"{prefix}.leases.>",),
            description="Who leads. Never what correctness rests on.",
            chained=(f"{prefix}.leases.>",),
            # Only the newest counts. With a few more, foreign records do not push it out between two renewals.
            max_per_subject=32,
            max_age=_DAY,
            replicas=replicas,
            fleeting=True,
        ),
    )
    return {spec.name: spec for spec in every}


def covering(patterns: Sequence[str]) -> Callable[[str], bool]:
    """Whether one of some patterns covers a subject, for who asks of many."""
    literal = frozenset(one for one in patterns if not {"*", ">"} & set(one.split(".")))
    everything = tuple(one[:-1] for one in patterns if one.endswith(".>") and "*" not in one.split("."))
    others = tuple(one for one in patterns if one not in literal and one[:-1] not in everything)

    def covers(subject: str) -> bool:
        if subject in literal or any(matches(one, subject) for one in others):
            return True
        return bool(everything) and subject.startswith(everything) and subject not in everything

    return covers


def matches(pattern: str, subject: str) -> bool:
    """Whether a NATS subject pattern (`*` is one token, a last `>` is one or more) covers a subject.

    A pattern may stand for the subject too: `a.>` covers `a.*.b`, and so a scope covers a narrower one.
    """
    wanted, given = pattern.split("."), subject.split(".")
    for index, part in enumerate(wanted):
        if part == ">":
            return len(given) > index
        if index >= len(given):
            return False
        if given[index] != part and (part != "*" or given[index] == ">"):
            return False
    return len(wanted) == len(given)
