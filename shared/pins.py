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

from shared import events
from shared.events import Event

PIN_KIND = "Pin"
PIN_NAME = "mesh"
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

_PACK_FROM = 64 * 1024


class PinnedObject(msgspec.Struct, frozen=True, array_like=True):
    """A policy object of the past."""

    sequence: int
    """Of the event that applied it."""
    event: msgspec.Raw
    """That event."""


class Pin(msgspec.Struct, frozen=True, omit_defaults=True):
    """What an event of kind `Pin` says."""

    version: int
    """The version whose policy is in force again."""
    why: str = ""
    objects: list[PinnedObject] = []
    """Readable while they are few."""
    packed: str = ""
    """The same objects, JSON below zlib below base64, when they are many."""


def pin_of(version: int, why: str, past: list[tuple[int, Event]]) -> Pin:
    """The pin that puts these objects in force."""
    objects = [PinnedObject(sequence, msgspec.Raw(events.encode(event))) for sequence, event in past]
    text = msgspec.json.encode(objects)
    if len(text) < _PACK_FROM:
        return Pin(version=version, why=why, objects=objects)
    return Pin(version=version, why=why, packed=base64.b64encode(zlib.compress(text, 9)).decode())


def objects_of(pin: Pin) -> list[tuple[int, Event]]:
    """The objects that a pin puts in force, with the sequences of their events.

    Raises `events.CorruptEventError` if it holds something else.
    """
    objects = pin.objects
    try:
        if pin.packed:
            objects = msgspec.json.decode(zlib.decompress(base64.b64decode(pin.packed)), type=list[PinnedObject])
    except (msgspec.MsgspecError, zlib.error, ValueError) as error:
        raise events.CorruptEventError("pin/corrupt", f"cannot be read as a pin ({error})") from error
    return [(one.sequence, events.decode(bytes(one.event))) for one in objects]
