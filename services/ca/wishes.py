"""What people want of the CA, read from MeshRootCertificates."""

from __future__ import annotations

from typing import Any, cast, get_args

import msgspec

from services.ca.rotation import Role
from shared.errors import MeshlogError
from shared.events import Event
from shared.model import PolicyObject

ROLES = get_args(Role)


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
    """A MeshRootCertificate; raises `MeshlogError` if it is none: the last good form stays in force."""
    provider = found.spec.get("provider")
    role, domain = found.spec.get("role"), found.spec.get("trustDomain")
    if role not in ROLES or not isinstance(domain, str) or not isinstance(provider, dict):
        raise MeshlogError("root/spec", "needs a role, a trustDomain and a provider", about=str(event.key))
    named = cast("dict[str, Any]", provider)
    if len(named) != 1:
        raise MeshlogError("root/spec", "needs exactly one provider", about=str(event.key))
    name, settings = next(iter(named.items()))
    return WantedRoot(
        name=event.name,
        role=cast("Role", role),
        trust_domain=domain,
        provider="builtin" if name == "tresor" else name,
        settings=settings or {},
        created=found.metadata.creation_timestamp,
    )
