"""The pin: a past policy in force again, as an event that a person wrote.

A pin carries the policy objects themselves, as the events that once applied them, and not just a version: so the
log's compile stays a function of what is in it, even when the events of that version have been forgotten. What a pin
holds back is policy and routing alone; pods, endpoints, services, namespaces and certificates stay live, so that
nothing that was removed comes back.

It is one object of kind `Pin`, applied by `meshlog rollback` and deleted by `meshlog unpin`.
"""

from __future__ import annotations

import base64
import zlib

import msgspec

from shared.errors import BadInputError
from shared.io.decoding import UndecodableError, decode
from shared.records import events
from shared.records.events import Event
from shared.records.subjects import EMPTY_TOKEN

PIN_KIND = "Pin"
PIN_NAME = "mesh"
SUBJECT_END = f".{PIN_KIND}.{EMPTY_TOKEN}.{PIN_NAME}"
"""How the subject of a pin's events ends, in every cluster."""
PINNED_KINDS = frozenset(
    {
        "Egress",
        "ExtensionService",
        "HTTPRouteGroup",
        "IdentityBinding",
        "IngressBackend",
        "MeshConfig",
        "Retry",
        "TCPRoute",
        "Telemetry",
        "TrafficSplit",
        "TrafficTarget",
        "UDPRoute",
        "UpstreamTrafficSetting",
    }
)
"""Kinds of which a pin puts the past form in force: policy and routing."""

MAX_BYTES = 16 << 20
"""Bytes of a pin's objects, unpacked. Not a setting: what is in force must not depend on whose compiler reads it."""
MAX_OBJECTS = 20_000
"""Objects of a pin."""
_MAX_ARRAYS = 20 * MAX_OBJECTS
"""JSON arrays in them: of each object, and of what is in it. Counted before anything is decoded."""

_PACK_FROM = 64 * 1024


class PinnedObject(msgspec.Struct, frozen=True, array_like=True):
    """A policy object of the past."""

    sequence: int
    """Of the event that applied it."""
    event: msgspec.Raw
    """That event."""


class Pin(msgspec.Struct, frozen=True, omit_defaults=True):
    """The content of an event of kind `Pin`."""

    version: int
    """The version whose policy is in force again."""
    why: str = ""
    objects: list[PinnedObject] = []
    """Readable while they are few."""
    packed: str = ""
    """The same objects, JSON below zlib below base64, when they are many."""


def pin_of(version: int, why: str, past: list[tuple[int, Event]]) -> Pin:
    """The pin that puts these objects in force. Raises `BadInputError` if there are too many of them."""
    objects = [PinnedObject(sequence, msgspec.Raw(events.encode(event))) for sequence, event in past]
    text = msgspec.json.encode(objects)
    if len(objects) > MAX_OBJECTS or len(text) > MAX_BYTES or text.count(b"]") > _MAX_ARRAYS:
        raise BadInputError(
            "pin/too-large",
            f"{len(objects)} objects of {len(text)} bytes do not fit into a pin: at most {MAX_OBJECTS} objects and "
            f"{MAX_BYTES} bytes do",
            about=f"version {version}",
        )
    if len(text) < _PACK_FROM:
        return Pin(version=version, why=why, objects=objects)
    return Pin(version=version, why=why, packed=base64.b64encode(zlib.compress(text, 9)).decode())


def objects_of(pin: Pin) -> list[tuple[int, Event]]:
    """The objects that a pin puts in force, with the sequences of their events.

    Raises `events.CorruptEventError` if it holds something else, or more than a pin may.
    """
    objects = pin.objects
    try:
        if pin.packed:
            objects = decode(list[PinnedObject], _unpacked(pin.packed))
    except (zlib.error, ValueError) as error:
        raise events.CorruptEventError("pin/corrupt", f"cannot be read as a pin ({error})") from error
    if len(objects) > MAX_OBJECTS:
        raise events.CorruptEventError("pin/too-large", f"holds {len(objects)} objects, a pin may hold {MAX_OBJECTS}")
    return [(one.sequence, events.decode(bytes(one.event))) for one in objects]


def in_force_by(event: Event) -> list[tuple[int, Event]] | None:
    """What an event of kind `Pin` puts in force instead of the newest policy; none: it ends the pin.

    Only policy of its own cluster: its writer may write nothing else of the log. Raises `events.CorruptEventError` if
    it cannot be read, `events.FutureEventError` if it holds what only a newer build reads.
    """
    if event.operation == events.DELETED or event.object is None:
        return None
    try:
        pin = decode(Pin, event.object)
    except UndecodableError as error:
        raise events.CorruptEventError("pin/corrupt", f"cannot be read as a pin ({error})") from error
    return [
        (sequence, one)
        for sequence, one in objects_of(pin)
        if one.kind in PINNED_KINDS and one.cluster == event.cluster and one.operation == events.APPLIED
    ]


def version_of(event: Event) -> int:
    """The version that an event of kind `Pin` names; 0: none. Raises `events.CorruptEventError`."""
    if event.operation == events.DELETED or event.object is None:
        return 0
    try:
        return decode(Pin, event.object).version
    except UndecodableError as error:
        raise events.CorruptEventError("pin/corrupt", f"cannot be read as a pin ({error})") from error


def _unpacked(packed: str) -> bytes:
    """The JSON of a pin's objects. Raises `ValueError` beyond what a pin may hold, before it takes the memory."""
    opened = zlib.decompressobj()
    text = opened.decompress(base64.b64decode(packed), MAX_BYTES + 1)
    if len(text) > MAX_BYTES:
        raise ValueError(f"more than {MAX_BYTES} bytes, unpacked")
    if not opened.eof:
        raise ValueError("cut short")
    if text.count(b"]") > _MAX_ARRAYS:
        raise ValueError(f"more than {_MAX_ARRAYS} arrays")
    return text
