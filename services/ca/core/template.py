"""Builds certificates: self-signed roots, and leaves by the X509-SVID standard. `issuer` decides what may be signed.

A leaf has an empty subject, hence a critical SAN (RFC 5280, 4.2.1.6), one SPIFFE URI, the key usage digitalSignature
(critical), both extended usages and no CA flag. RSA leaves may also encipher keys, because some peers still use TLS 1.2
without ephemeral keys.
"""

from __future__ import annotations

from datetime import UTC, datetime
from functools import lru_cache
from typing import Any

import msgspec
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric.ec import EllipticCurvePrivateKey
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPublicKey
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from services.ca.core.csr import PublicKey
from shared.identity.spiffe import SpiffeId

ROOT_LIFETIME = 10 * 365 * 86400
"""Lifetime of a self-signed root in seconds."""
_BOTH_USAGES = x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH])
_NO_CA = x509.BasicConstraints(ca=False, path_length=None)
_EMPTY_NAME = x509.Name([])


class LeafTemplate(msgspec.Struct, frozen=True):
    """The content of a leaf, without issuer and signature."""

    identity: SpiffeId | None
    """`None` if the leaf is no SVID: the certificate of an ingress gateway."""
    key: PublicKey
    spki: bytes
    """The key as SubjectPublicKeyInfo, DER."""
    dns_names: tuple[str, ...]
    not_before: int
    not_after: int
    """Seconds since 1970."""
    serial: int
    """128 random bits: positive, and unique without a register (CA/B baseline 7.1 requires 64)."""


def sign_leaf(
    template: LeafTemplate, issuer: x509.Certificate, issuer_key: EllipticCurvePrivateKey
) -> x509.Certificate:
    """Return the certificate of a template, signed with the issuer's key."""
    names: list[x509.GeneralName] = []
    if template.identity is not None:
        names.append(x509.UniformResourceIdentifier(str(template.identity)))
    names += [x509.DNSName(name) for name in template.dns_names]
    builder = x509.CertificateBuilder(
        issuer_name=issuer.subject,
        subject_name=_EMPTY_NAME,
        public_key=template.key,
        serial_number=template.serial,
        not_valid_before=_utc(template.not_before),
        not_valid_after=_utc(template.not_after),
        extensions=[
            x509.Extension(x509.SubjectAlternativeName.oid, True, x509.SubjectAlternativeName(names)),
            *_same_for_all(issuer, rsa=isinstance(template.key, RSAPublicKey)),
        ],
    )
    return builder.sign(issuer_key, SHA256())


def self_signed_root(
    trust_domain: str, key: EllipticCurvePrivateKey, *, now: int, serial: int, lifetime: int = ROOT_LIFETIME
) -> x509.Certificate:
    """Return a root for a trust domain. Its URI SAN is the trust domain itself (X509-SVID, section 2)."""
    name = x509.Name(
        [
            x509.NameAttribute(NameOID.ORGANIZATION_NAME, "Meshlog"),
            x509.NameAttribute(NameOID.COMMON_NAME, f"Meshlog root {serial:032x}"[:64]),
        ]
    )
    public = key.public_key()
    return (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(public)
        .serial_number(serial)
        .not_valid_before(_utc(now - 3600))
        .not_valid_after(_utc(now + lifetime))
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .add_extension(_usage(digital_signature=False, key_encipherment=False, signs_certificates=True), critical=True)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(public), critical=False)
        .add_extension(
            x509.SubjectAlternativeName([x509.UniformResourceIdentifier(f"spiffe://{trust_domain}")]), critical=False
        )
        .sign(key, SHA256())
    )


def _utc(seconds: int) -> datetime:
    return datetime.fromtimestamp(seconds, UTC)


def _authority_key(issuer: x509.Certificate) -> x509.AuthorityKeyIdentifier:
    identifier = issuer.extensions.get_extension_for_class(x509.SubjectKeyIdentifier).value
    return x509.AuthorityKeyIdentifier.from_issuer_subject_key_identifier(identifier)


@lru_cache(maxsize=16)
def _same_for_all(issuer: x509.Certificate, *, rsa: bool) -> tuple[x509.Extension[Any], ...]:
    """Return the extensions that all leaves of an issuer share. Cached: they cost as much as a signature."""
    usage = _usage(digital_signature=True, key_encipherment=rsa, signs_certificates=False)
    return (
        x509.Extension(x509.KeyUsage.oid, True, usage),
        x509.Extension(x509.ExtendedKeyUsage.oid, False, _BOTH_USAGES),
        x509.Extension(x509.BasicConstraints.oid, True, _NO_CA),
        x509.Extension(x509.AuthorityKeyIdentifier.oid, False, _authority_key(issuer)),
    )


def _usage(*, digital_signature: bool, key_encipherment: bool, signs_certificates: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=digital_signature,
        content_commitment=False,
        key_encipherment=key_encipherment,
        data_encipherment=False,
        key_agreement=False,
        key_cert_sign=signs_certificates,
        crl_sign=signs_certificates,
        encipher_only=False,
        decipher_only=False,
    )
