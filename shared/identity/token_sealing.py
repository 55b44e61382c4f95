"""Seals tokens to the CA, so that neither the log nor its readers hold a usable token.

HPKE (RFC 9180) in base mode: DHKEM(X25519, HKDF-SHA256), HKDF-SHA256, AES-256-GCM. What a sealed token belongs to (the
SHA-256 of its CSR) is bound through the `info` of the key schedule, behind the label: the library's public interface
has no associated data, and for one message per key the RFC (section 8.1) prefers `info` anyway. A sealed token moved to
another CSR therefore does not open.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey
from cryptography.hazmat.primitives.hpke import AEAD, KDF, KEM, Suite

from shared.errors import MeshlogError
from shared.records.certificate_records import SealingKey, TrustBundle

LABEL = b"meshlog/csr/v1"
MAX_SEALED = 32 * 1024
"""Bytes of a sealed token; a service-account token takes 1 to 2 kB."""

_SUITE = Suite(KEM.X25519, KDF.HKDF_SHA256, AEAD.AES_256_GCM)


class SealingError(MeshlogError):
    """A token cannot be sealed, or what was sealed does not open: wrong key, wrong CSR, or damage."""


def binding(csr: bytes) -> bytes:
    """What a sealed token is bound to: SHA-256 of the CSR that it proves."""
    return hashlib.sha256(csr).digest()


def sealing_key_id(public: bytes) -> str:
    """Id of a public sealing key: the first 16 hex digits of its SHA-256."""
    return hashlib.sha256(public).hexdigest()[:16]


def seal(public: bytes, plaintext: bytes, aad: bytes) -> bytes:
    """Seal to a raw X25519 public key; only its owner opens it, and only with the same `aad`.

    Raises `SealingError` if the key is not 32 bytes of X25519.
    """
    try:
        return _SUITE.encrypt(plaintext, X25519PublicKey.from_public_bytes(public), info=LABEL + aad)
    except ValueError as error:
        raise SealingError("sealing/key", "the CA published a sealing key that is not X25519") from error


def seal_token(bundle: TrustBundle, token: str, csr: bytes) -> tuple[str, bytes]:
    """Seal a workload's token for one CSR to the newest key of the bundle: (key id, sealed token)."""
    if not bundle.sealing_keys:
        raise SealingError("sealing/key", "the trust bundle names no sealing key; wait for the CA to publish one")
    key = bundle.sealing_keys[0]
    return key.id, seal(key.public, token.encode(), binding(csr))


class Opener:
    """The CA's side: opens what was sealed to any of its keys."""

    def __init__(self, private_keys: Iterable[bytes]) -> None:
        """Take raw X25519 private keys of 32 bytes, the newest first."""
        self._keys: dict[str, X25519PrivateKey] = {}
        self._published: list[SealingKey] = []
        self.hold(private_keys)

    def hold(self, private_keys: Iterable[bytes]) -> None:
        """Open also what is sealed to these."""
        for raw in private_keys:
            private = X25519PrivateKey.from_private_bytes(raw)
            public = private.public_key().public_bytes_raw()
            key_id = sealing_key_id(public)
            if key_id in self._keys:
                continue
            self._keys[key_id] = private
            self._published.append(SealingKey(id=key_id, public=public))

    @property
    def public_keys(self) -> list[SealingKey]:
        """What the trust bundle publishes, newest first."""
        return list(self._published)

    def open(self, key_id: str, sealed: bytes, aad: bytes) -> bytes:
        """Open a sealed text.

        Raises `SealingError` with `sealing/unknown-key` (the sender uses an old bundle: it should read the newest)
        or `sealing/does-not-open`.
        """
        private = self._keys.get(key_id)
        if private is None:
            raise SealingError(
                "sealing/unknown-key", "it is sealed to a key that this CA does not hold", about=key_id[:64]
            )
        if len(sealed) > MAX_SEALED:
            raise SealingError("sealing/does-not-open", f"it is longer than {MAX_SEALED} bytes")
        try:
            return _SUITE.decrypt(sealed, private, info=LABEL + aad)
        except (InvalidTag, ValueError) as error:
            raise SealingError("sealing/does-not-open", "it was sealed for another CSR, or was damaged") from error


def generate_sealing_key() -> bytes:
    """A new raw X25519 private key."""
    return X25519PrivateKey.generate().private_bytes_raw()
