"""The CA's secret keys: the signing key and the keys that tokens are sealed to, and their stored form.

They are stored as JSON that contains PEM, so that a person can extract a key in an emergency. No text contains a key.
"""

from __future__ import annotations

import secrets
from collections.abc import Callable

import msgspec
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric.ec import SECP256R1, EllipticCurvePrivateKey, generate_private_key
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
    load_pem_private_key,
)

from services.ca.core.template import self_signed_root
from shared.errors import MeshlogError
from shared.identity.svid import UNREADABLE
from shared.identity.token_sealing import generate_sealing_key
from shared.io.decoding import UndecodableError, decode


class AuthorityError(MeshlogError):
    """The stored keys of the CA cannot be used."""


class StoredAuthority(msgspec.Struct, frozen=True):
    """The stored form of the keys, in a file or a Secret."""

    trust_domain: str
    certificate: str
    """Issuing certificate, PEM: the root, or an intermediate that an external CA signed."""
    key: str
    """Its private key, PKCS #8 PEM."""
    sealing_keys: list[bytes]
    """Raw X25519 private keys, newest first."""
    above: list[str] = []
    """Certificates between an intermediate and its root, PEM; the one above the intermediate first."""
    root: str = ""
    """Root of the intermediate, PEM; empty if `certificate` is the root."""

    def __repr__(self) -> str:
        return f"StoredAuthority({self.trust_domain})"


class Authority(msgspec.Struct, frozen=True):
    """The decoded keys."""

    trust_domain: str
    certificate: x509.Certificate
    certificate_pem: str
    key: EllipticCurvePrivateKey
    sealing_keys: tuple[bytes, ...]
    above: tuple[x509.Certificate, ...] = ()
    root: x509.Certificate | None = None

    @property
    def anchor(self) -> x509.Certificate:
        """The root that members must trust."""
        return self.root or self.certificate

    @property
    def intermediates(self) -> list[x509.Certificate]:
        """The certificates between a leaf and the root."""
        return [self.certificate, *self.above] if self.root is not None else []

    def __repr__(self) -> str:
        return f"Authority({self.trust_domain})"


def generate_authority(trust_domain: str, *, clock: Callable[[], float]) -> StoredAuthority:
    """Return a new root (P-256) with a new sealing key."""
    key = generate_private_key(SECP256R1())
    root = self_signed_root(trust_domain, key, now=int(clock()), serial=new_serial())
    return StoredAuthority(
        trust_domain=trust_domain,
        certificate=root.public_bytes(Encoding.PEM).decode(),
        key=key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()).decode(),
        sealing_keys=[generate_sealing_key()],
    )


def new_serial() -> int:
    """Return 128 random bits as a serial. The highest bit is set, so that all serials have one length."""
    return secrets.randbits(128) | 1 << 127


def encode_authority(stored: StoredAuthority) -> bytes:
    """Return the bytes to store. They are secret."""
    return msgspec.json.format(msgspec.json.encode(stored), indent=1) + b"\n"


def decode_authority(raw: bytes, *, trust_domain: str, about: str) -> Authority:
    """Decode stored keys and check that they belong together.

    `about` names the place, for errors. Raises `AuthorityError` (`ca/keys`), whose text contains no stored content.
    """
    try:
        stored = decode(StoredAuthority, raw)
        certificate = x509.load_pem_x509_certificate(stored.certificate.encode())
        certified = certificate.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
        key = load_pem_private_key(stored.key.encode(), password=None)
        above = [x509.load_pem_x509_certificate(pem.encode()) for pem in stored.above]
        root = x509.load_pem_x509_certificate(stored.root.encode()) if stored.root else None
    except (UndecodableError, *UNREADABLE):
        raise AuthorityError("ca/keys", "does not hold the CA's keys; restore it from a backup", about=about) from None
    if not isinstance(key, EllipticCurvePrivateKey) or _spki(key) != certified:
        raise AuthorityError("ca/keys", "holds a key that is not the one of its certificate", about=about)
    if stored.trust_domain != trust_domain:
        raise AuthorityError(
            "ca/trust-domain",
            f"holds the CA of trust domain {stored.trust_domain}, but the settings say {trust_domain}",
            about=about,
        )
    if not stored.sealing_keys or any(len(raw_key) != 32 for raw_key in stored.sealing_keys):
        raise AuthorityError("ca/keys", "holds no usable sealing key; restore it from a backup", about=about)
    return Authority(
        trust_domain=trust_domain,
        certificate=certificate,
        certificate_pem=stored.certificate,
        key=key,
        sealing_keys=tuple(stored.sealing_keys),
        above=tuple(above),
        root=root,
    )


def _spki(key: EllipticCurvePrivateKey) -> bytes:
    return key.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
