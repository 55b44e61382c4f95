"""A policy object from the API server's bytes: only what policy is read from, in one shape for every version.

The ingestor writes it into the log, and the validating webhook reads what a user is about to store, so both see the
same object.
"""

from __future__ import annotations

from typing import Any, cast

import msgspec

from shared import projected_objects
from shared.io.decoding import convert, decode, decoding

_NOT_SPEC = frozenset({"apiVersion", "kind", "metadata", "status", "spec"})


def read_policy(payload: bytes | msgspec.Raw) -> projected_objects.PolicyObject:
    """Read one object. Raises what msgspec raises for bytes that are none.

    `spec` may be missing (early SMI has its fields beside the metadata) or null, and metadata may hold nulls.
    """
    whole = decode(dict[str, Any], payload)
    spec = whole.get("spec")
    if spec is None:
        spec = {key: value for key, value in whole.items() if key not in _NOT_SPEC}
    with decoding():
        meta = without_nulls(whole.get("metadata"))
    return convert(projected_objects.PolicyObject, {"metadata": meta, "spec": spec})


def without_nulls(value: Any) -> Any:
    """The value without its null members: Go writes empty lists as null."""
    if isinstance(value, dict):
        items = cast("dict[str, Any]", value).items()
        return {key: without_nulls(each) for key, each in items if each is not None}
    if isinstance(value, list):
        return [without_nulls(each) for each in cast("list[Any]", value)]
    return value
