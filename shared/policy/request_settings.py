"""Settings of how sidecars read requests, as users write them: in the MeshConfig, or in annotations of a namespace."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

from shared.policy.model import EscapedSlashes
from shared.policy.object_name import ObjectName

MAX_FORWARDERS = 16
"""Trusted forwarders of one MeshConfig or one namespace."""
_WORDS = ("reject", "decode", "keep")
_ACCOUNT = re.compile(r"([a-z0-9](?:[-a-z0-9]{0,61}[a-z0-9])?)/([a-z0-9](?:[-a-z0-9.]{0,251}[a-z0-9])?)\Z")


def escaped_slashes(value: Any) -> EscapedSlashes:
    """Read `Reject`, `Decode` or `Keep` in any case. Raises `ValueError` with a sentence."""
    word = value.strip().lower() if isinstance(value, str) else ""
    if word not in _WORDS:
        raise ValueError(f"escapedSlashes is {str(value)[:40]!r}; use Reject, Decode or Keep")
    return word


def forwarders(values: Sequence[Any]) -> tuple[ObjectName, ...]:
    """Read service accounts, `namespace/serviceaccount` each; sorted. Raises `ValueError` with a sentence."""
    if len(values) > MAX_FORWARDERS:
        raise ValueError(f"trustedForwarders names {len(values)} callers, more than {MAX_FORWARDERS}")
    found: set[ObjectName] = set()
    for value in values:
        match = _ACCOUNT.match(value.strip()) if isinstance(value, str) else None
        if match is None:
            raise ValueError(f"trustedForwarders names {str(value)[:80]!r}; write namespace/serviceaccount")
        found.add(ObjectName(match[1], match[2]))
    return tuple(sorted(found))


def listed_forwarders(text: str) -> tuple[ObjectName, ...]:
    """Read the callers in an annotation, by commas. Raises `ValueError` with a sentence."""
    return forwarders([word for word in (part.strip() for part in text.split(",")) if word])
