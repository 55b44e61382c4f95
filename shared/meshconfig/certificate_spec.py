"""What of a MeshConfig is for the CA: `spec.certificate`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, cast

import msgspec

from shared.errors import BadInputError
from shared.timing.duration import parse_duration

DEFAULT_KEY = "P-256"
RSA_BITS = (2048, 3072, 4096)
_GATEWAY_LIFETIME = 86400.0


class GatewayCertificateSpec(msgspec.Struct, frozen=True):
    """`certificate.ingressGateway`: a certificate for an ingress gateway outside the mesh."""

    names: tuple[str, ...]
    lifetime: float
    """Seconds."""
    secret: str
    namespace: str


class CertificateSpec(msgspec.Struct, frozen=True):
    """`spec.certificate`; without one, the defaults."""

    lifetime: float | None = None
    """Seconds; none: the CA's own setting."""
    key_type: str = DEFAULT_KEY
    gateway: GatewayCertificateSpec | None = None


def read_certificates(spec: Mapping[str, Any], *, about: str = "MeshConfig") -> CertificateSpec:
    """Read `certificate` of a MeshConfig's `spec`. Raises `BadInputError`."""
    found: object = spec.get("certificate")
    if found is None:
        return CertificateSpec()
    if not isinstance(found, dict):
        raise BadInputError("config/certificate", "certificate must be an object", about=about)
    settings = cast("dict[str, Any]", found)
    return CertificateSpec(
        lifetime=_seconds(settings, "serviceCertValidityDuration", about),
        key_type=_key(settings.get("certKeyBitSize"), about),
        gateway=_gateway(settings.get("ingressGateway"), about),
    )


def _seconds(settings: Mapping[str, Any], name: str, about: str) -> float | None:
    text = settings.get(name)
    if text is None:
        return None
    try:
        return parse_duration(str(text))
    except ValueError as error:
        raise BadInputError("config/duration", f"certificate: {name}: {error}", about=about) from error


def _key(bits: object, about: str) -> str:
    if bits is None:
        return DEFAULT_KEY
    if isinstance(bits, bool) or bits not in RSA_BITS:
        wanted = ", ".join(map(str, RSA_BITS))
        raise BadInputError("config/key-size", f"certificate.certKeyBitSize must be one of {wanted}", about=about)
    return f"RSA-{bits}"


def _gateway(wish: object, about: str) -> GatewayCertificateSpec | None:
    if wish is None:
        return None
    wished = cast("dict[str, Any]", wish if isinstance(wish, dict) else {})
    secret: object = wished.get("secret")
    place = cast("dict[str, Any]", secret if isinstance(secret, dict) else {})
    listed: object = wished.get("subjectAltNames")
    names = cast("list[object]", listed if isinstance(listed, list) else [])
    texts = (place.get("name"), place.get("namespace"), *names)
    if not names or not all(isinstance(text, str) and text for text in texts):
        sentence = "certificate.ingressGateway needs subjectAltNames and a secret's name and namespace"
        raise BadInputError("config/ingress-gateway", sentence, about=about)
    lifetime = _seconds(wished, "validityDuration", about) or _GATEWAY_LIFETIME
    return GatewayCertificateSpec(
        names=cast("tuple[str, ...]", tuple(names)),
        lifetime=lifetime,
        secret=place["name"],
        namespace=place["namespace"],
    )
