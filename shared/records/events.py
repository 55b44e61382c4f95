"""The event: one change of one object, as it stands in `MESH_EVENTS`.

JSON, so that an operator can read the log with the plain `nats` tool. Keys are sorted by declaration and defaults
are left out, so that equal events have equal bytes. A new field gets a default; a change of meaning gets a new
`schema` and an upcast here: the log itself is never rewritten.
"""

from __future__ import annotations

import contextlib
from typing import Any, Literal

import msgspec

from shared import projected_objects
from shared.errors import MeshlogError
from shared.eventlog.protocol import Record
from shared.io.decoding import UndecodableError, decode_by
from shared.records.subjects import Streams, escape

SCHEMA = 1
"""The newest schema that this build writes and understands."""

KINDS = frozenset({*projected_objects.KINDS, "Pin"})
"""Kinds that this build understands: those of Kubernetes' objects, and a person's pin (`shared.records.pins`)."""

APPLIED: Literal["applied"] = "applied"
DELETED: Literal["deleted"] = "deleted"


class CorruptEventError(MeshlogError):
    """The bytes are no event that any build of Meshlog can have written."""


class FutureEventError(MeshlogError):
    """The event was written by a newer build; this one must not guess at it."""

    def __init__(self, what: str, *, about: str = "") -> None:
        """`what`: what of it is newer, and what this build reads."""
        super().__init__("event/future", f"{what}; run a newer build", about=about)
        self.what = what

    def state(self, sequence: int) -> str:
        """The state that a service reports if it stops at this event."""
        return f"needs a newer build: event {sequence} {self.what}"


class ObjectKey(msgspec.Struct, frozen=True, order=True):
    """Which object: stable over deletion and re-creation (the uid is not part of it)."""

    cluster: str
    kind: str
    namespace: str
    """Empty for cluster-scoped kinds."""
    name: str

    def __str__(self) -> str:
        return f"{self.kind} {self.namespace}/{self.name}" if self.namespace else f"{self.kind} {self.name}"


class EventOrigin(msgspec.Struct, frozen=True, omit_defaults=True):
    """Where an event came from: the writer that changed the object, and how the ingestor received it."""

    source: str = "watch"
    """`watch`, `list` (a difference found by reconciling), `operator` (a person through the command)."""
    manager: str = ""
    """Field manager of the newest entry in `managedFields`: for example `kubectl-client-side-apply`."""
    time: str = ""
    """When that manager changed it, RFC 3339, by the API server's clock."""
    change_set: str = ""
    """Id that the objects applied together share; empty if it came alone."""


_NO_ORIGIN = EventOrigin()
# One object: msgspec leaves a default out only if it is this very object, and equal events must have equal bytes.


class Event(msgspec.Struct, frozen=True, omit_defaults=True):
    """One change of one object."""

    schema: int
    cluster: str
    kind: str
    namespace: str
    name: str
    uid: str
    resource_version: str
    """Kubernetes' own. Opaque: compared for equality, never ordered, except to notice that it went backwards."""
    operation: Literal["applied", "deleted"]
    api_version: str = ""
    """`group/version` that the object was read in."""
    object: msgspec.Raw | None = None
    """The projected object (`shared.projected_objects`), as JSON; none for `deleted`."""
    origin: EventOrigin = _NO_ORIGIN
    withheld: int = 0
    """Size of the object in bytes if its closed form stands in its place (`shared.records.withheld`); 0 if not."""
    why: str = ""
    """Of a closed form: why the object cannot be read (`shared.records.unreadable`); empty if it can or is unknown."""

    @property
    def key(self) -> ObjectKey:
        """Which object it is about."""
        return ObjectKey(cluster=self.cluster, kind=self.kind, namespace=self.namespace, name=self.name)

    def subject(self, streams: Streams) -> str:
        """Where in the log it stands."""
        return streams.event_subject(self.cluster, self.kind, self.namespace, self.name)


class _Wire(msgspec.Struct):
    # What is decoded: msgspec reads no raw JSON into a field that may also be none (it then takes only null).
    schema: int
    cluster: str
    kind: str
    namespace: str
    name: str
    uid: str
    resource_version: str
    operation: Literal["applied", "deleted"]
    api_version: str = ""
    object: msgspec.Raw | msgspec.UnsetType = msgspec.UNSET
    origin: EventOrigin = _NO_ORIGIN
    withheld: int = 0
    why: str = ""


_ENCODER = msgspec.json.Encoder(order="deterministic")
_DECODER = msgspec.json.Decoder(_Wire)


class _Head(msgspec.Struct):
    # What every schema has, also those to come: a newer one may have other fields and operations than `_Wire`.
    schema: int


_HEAD = msgspec.json.Decoder(_Head)
_KEY = msgspec.json.Decoder(ObjectKey)


def encode(event: Event) -> bytes:
    """The bytes of an event: equal events give equal bytes."""
    return _ENCODER.encode(event)


def decode(payload: bytes) -> Event:
    """Read an event of any released schema.

    Raises `CorruptEventError` for bytes that are no event, `FutureEventError` for a schema newer than ours and for a
    kind that this build does not know: to pass over it would be to guess that it means nothing.
    """
    try:
        wire = decode_by(_DECODER, payload)
    except UndecodableError as error:
        _refuse_future(_schema_of(payload))
        raise CorruptEventError("event/corrupt", f"cannot be read as an event ({error})") from error
    event = Event(
        schema=wire.schema,
        cluster=wire.cluster,
        kind=wire.kind,
        namespace=wire.namespace,
        name=wire.name,
        uid=wire.uid,
        resource_version=wire.resource_version,
        operation=wire.operation,
        api_version=wire.api_version,
        object=None if wire.object is msgspec.UNSET else wire.object,
        origin=wire.origin,
        withheld=wire.withheld,
        why=wire.why,
    )
    _refuse_future(event.schema, about=str(event.key))
    if event.schema < 1:
        raise CorruptEventError("event/corrupt", f"has schema {event.schema}, which never existed")
    if event.kind not in KINDS:
        raise FutureEventError(f"is of kind {event.kind}, which this build does not know", about=str(event.key))
    return event


def read(record: Record) -> Event:
    """The event in a record of `MESH_EVENTS`.

    Raises as `decode` does, and `CorruptEventError` for an event that names another object than the record's subject:
    the right to write is given by subject, so its writer may not have had it. That goes for newer events as well.
    """
    try:
        event = decode(record.payload)
    except FutureEventError:
        with contextlib.suppress(UndecodableError):
            _check_subject(record, decode_by(_KEY, record.payload))
        raise
    _check_subject(record, event.key)
    return event


def _check_subject(record: Record, key: ObjectKey) -> None:
    place = [escape(key.cluster), escape(key.kind), escape(key.namespace), escape(key.name)]
    if record.subject.rsplit(".", 4)[1:] != place:
        sentence = f"is an event of {str(key)[:200]} in cluster {key.cluster[:100]}, and its subject is another's"
        raise CorruptEventError("event/subject", sentence, about=record.subject[:200])


def _schema_of(payload: bytes) -> int:
    """The schema of bytes that cannot be read as an event of this build; 0 if they name none."""
    try:
        return decode_by(_HEAD, payload).schema
    except UndecodableError:
        return 0


def _refuse_future(schema: int, *, about: str = "an event") -> None:
    if schema > SCHEMA:
        raise FutureEventError(f"has schema {schema}, this build reads up to {SCHEMA}", about=about)


def encode_object(projected: Any) -> msgspec.Raw:
    """Deterministic JSON of a projected object, ready for `Event.object`."""
    return msgspec.Raw(_ENCODER.encode(projected))
