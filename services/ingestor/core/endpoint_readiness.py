"""Whether an EndpointSlice leads anywhere: what the guard against an empty list of endpoints asks. Pure.

Apart, because it is the one place of the ingestor that looks into an object.
"""

from __future__ import annotations

import msgspec

from shared.io.decoding import UndecodableError, decode_by


class _Conditions(msgspec.Struct, frozen=True):
    ready: bool | None = None


class _Endpoint(msgspec.Struct):
    conditions: _Conditions = _Conditions()


class _Slice(msgspec.Struct):
    endpoints: list[_Endpoint] = []


_SLICE = msgspec.json.Decoder(_Slice)


def serves(kind: str, body: bytes) -> bool:
    """Whether the projection of an EndpointSlice has a ready endpoint; false for every other kind."""
    if kind != "EndpointSlice":
        return False
    try:
        return any(one.conditions.ready is not False for one in decode_by(_SLICE, body).endpoints)
    except UndecodableError:
        return False
