"""What people want of the CA, read from MeshRootCertificates."""

from __future__ import annotations

from typing import Any

import msgspec

from shared.meshconfig.root_certificate import Role, read_root
from shared.model import PolicyObject
from shared.records.events import Event


class WantedRoot(msgspec.Struct, frozen=True):
    """A MeshRootCertificate as it was written."""

    name: str
    role: Role
    trust_domain: str
    provider: str
    """`builtin`, `vault`, `certManager`, or the name of an installed one."""
    settings: dict[str, Any]
    """What stands under the provider's name."""
    created: str


def wanted_root(found: PolicyObject, event: Event) -> WantedRoot:
    """A MeshRootCertificate; raises `BadInputError` if it is none: the last good form stays in force."""
    root = read_root(found.spec, about=str(event.key))
    return WantedRoot(
        name=event.name,
        role=root.role,
        trust_domain=root.trust_domain,
        provider=root.provider,
        settings=root.settings,
        created=found.metadata.creation_timestamp,
    )
