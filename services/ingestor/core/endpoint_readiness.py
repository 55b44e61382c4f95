"""Detects EndpointSlices with a ready endpoint, for the guard against lists that empty a service. Pure.

A module of its own, because no other part of the ingestor reads the contents of an object.
"""

from __future__ import annotations

import msgspec

from shared.io.decoding import UndecodableError, decode_by


class _ReadyCondition(msgspec.Struct, frozen=True):
    ready: bool | None = None


class _EndpointReadiness(msgspec.Struct):
    conditions: _ReadyCondition = _ReadyCondition()


class _Slice(msgspec.Struct):
    endpoints: list[_EndpointReadiness] = []


_SLICE = msgspec.json.Decoder(_Slice)


def serves(kind: str, body: bytes) -> bool:
    """Whether the projection of an EndpointSlice has a ready endpoint; False for every other kind."""
    if kind != "EndpointSlice":
        return False
    try:
        return any(one.conditions.ready is not False for one in decode_by(_SLICE, body).endpoints)
    except UndecodableError:
        return False
