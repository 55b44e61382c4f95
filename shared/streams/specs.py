"""The streams of one mesh: subjects, retention, owner and content rule of each.

The in-memory log and JetStream are opened by the same specifications, so that tests meet the same refusals. Only ages
have no effect in memory.
"""

from __future__ import annotations

import msgspec

from shared.eventlog.stream_spec import StreamSpec
from shared.records.pins import SUBJECT_END
from shared.records.subjects import Streams
from shared.streams import record_rules


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
    full instead of dropping old ones, except where `max_per_subject` keeps only the newest. All are on disks: a stream
    in memory that every server has lost elects no leader before the last server is back (tried: two of three were not
    enough), and without leases nothing is written.
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
