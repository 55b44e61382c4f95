"""The roots that MeshRootCertificates configure."""

from __future__ import annotations

from typing import Any

import msgspec

from shared.meshconfig.root_certificate import Role, read_root
from shared.projected_objects import PolicyObject
from shared.records.events import Event

DEFAULT_ROOT = "default"
"""Name of the root that is used if there is no MeshRootCertificate."""


class WantedRoot(msgspec.Struct, frozen=True):
    """The root that a MeshRootCertificate configures."""

    name: str
    role: Role
    trust_domain: str
    provider: str
    """`builtin`, `vault`, `certManager`, or the name of an installed provider."""
    settings: dict[str, Any]
    """The object under the provider's name."""
    created: str
    """Creation timestamp of the object."""


def wanted_root(found: PolicyObject, event: Event) -> WantedRoot:
    """Read a MeshRootCertificate. Raises `BadInputError` if it is invalid; the last good form stays in force."""
    root = read_root(found.spec, about=str(event.key))
    return WantedRoot(
        name=event.name,
        role=root.role,
        trust_domain=root.trust_domain,
        provider=root.provider,
        settings=root.settings,
        created=found.metadata.creation_timestamp,
    )
