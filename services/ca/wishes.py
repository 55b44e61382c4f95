"""What people want of the CA, read from MeshRootCertificates and from MeshConfig's `certificate`."""

from __future__ import annotations

from typing import Any, cast, get_args

import msgspec

from services.ca.rotation import Role
from shared.duration import parse_duration
from shared.errors import MeshlogError
from shared.events import Event
from shared.model import PolicyObject

ROLES = get_args(Role)
DEFAULT_KEY = "P-256"
RSA_BITS = (2048, 3072, 4096)


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


class GatewayWish(msgspec.Struct, frozen=True):
    """MeshConfig `certificate.ingressGateway`: a certificate for an ingress gateway outside the mesh."""

    names: tuple[str, ...]
    lifetime: float
    """Seconds."""
    secret: str
    namespace: str


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


def seconds(settings: dict[str, Any], name: str, event: Event) -> float | None:
    """A duration of the settings; none: it is not there. Raises `MeshlogError`."""
    text = settings.get(name)
    if text is None:
        return None
    try:
        return parse_duration(str(text))
    except ValueError as error:
        raise MeshlogError("config/duration", f"{name}: {error}", about=str(event.key)) from error


def wanted_key(bits: Any, event: Event) -> str:
    """MeshConfig `certKeyBitSize` as a key type; raises `MeshlogError`."""
    if bits is None:
        return DEFAULT_KEY
    if bits not in RSA_BITS:
        raise MeshlogError("config/key-size", f"certKeyBitSize must be one of {RSA_BITS}", about=str(event.key))
    return f"RSA-{bits}"


def wanted_gateway(wish: Any, event: Event) -> GatewayWish | None:
    """MeshConfig `certificate.ingressGateway`; raises `MeshlogError` if it is incomplete."""
    if not isinstance(wish, dict):
        return None
    wished = cast("dict[str, Any]", wish)
    secret = wished.get("secret") or {}
    names = tuple(str(name) for name in wished.get("subjectAltNames") or ())
    if not names or not secret.get("name") or not secret.get("namespace"):
        raise MeshlogError(
            "config/ingress-gateway", "needs subjectAltNames and a secret's name and namespace", about=str(event.key)
        )
    lifetime = seconds(wished, "validityDuration", event) or 86400.0
    return GatewayWish(names=names, lifetime=lifetime, secret=secret["name"], namespace=secret["namespace"])
