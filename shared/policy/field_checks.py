"""The parts that policy objects are made of: mappings, lists, texts, names and ports, or else a `PolicyError`."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any, cast

from shared.policy.errors import PolicyError

_NAME = re.compile(r"[a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*\Z")


def mapping(value: Any, what: str) -> dict[str, Any]:
    """The value, if it is a mapping."""
    if not isinstance(value, dict):
        raise PolicyError("smi/shape", f"{what} must be a mapping")
    return cast("dict[str, Any]", value)


def sequence(value: Any, what: str) -> Sequence[Any]:
    """The value, if it is a list; nothing is an empty one."""
    if value is None:
        return ()
    if not isinstance(value, list):
        raise PolicyError("smi/shape", f"{what} must be a list")
    return cast("list[Any]", value)


def text(value: Any, what: str) -> str:
    """The value, if it is a text that is not empty."""
    if not isinstance(value, str) or not value:
        raise PolicyError("smi/shape", f"{what} must be a text that is not empty")
    return value


def name(value: Any, what: str) -> str:
    """The value, if it is a name that Kubernetes objects can have."""
    found = text(value, what)
    if len(found) > 253 or not _NAME.match(found):
        raise PolicyError("smi/name", f"{what} {found[:80]!r} is no Kubernetes name")
    return found


def port(value: Any, what: str) -> int:
    """The value as a port number."""
    # v1alpha1 and v1alpha2 had ports written as text; both are still found.
    if isinstance(value, str) and value.isascii() and value.isdigit() and len(value) < 6:
        value = int(value)
    if not isinstance(value, int) or isinstance(value, bool) or not 0 < value < 65536:
        raise PolicyError("smi/port", f"{what} must be a port number from 1 to 65535, not {str(value)[:40]!r}")
    return value
