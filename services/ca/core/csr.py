"""Extracts the public key from a PKCS #10 request after verifying the proof of possession.

Identity, names, extensions and lifetime come from the token and the policy, never from the CSR. A CSR that asks for
more than it can get (the CA flag, other names) is refused, not ignored: it is a mistake or an attack.
"""

from __future__ import annotations

import msgspec
from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.ec import SECP256R1, SECP384R1, EllipticCurvePublicKey
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPublicKey
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from services.ca.core.errors import IssuanceRefusedError
from shared.identity.spiffe import SpiffeId
from shared.identity.svid import UNREADABLE

MAX_BYTES = 8 * 1024
"""A CSR with an RSA-4096 key has about 1.7 kB."""
MIN_RSA_BITS = 2048
MAX_RSA_BITS = 4096
MIN_RSA_EXPONENT = 65537
_HASHES = {"sha256", "sha384", "sha512"}

PublicKey = EllipticCurvePublicKey | RSAPublicKey


class RequestedKey(msgspec.Struct, frozen=True):
    """The public key of a CSR with a valid signature."""

    key: PublicKey
    spki: bytes
    """SubjectPublicKeyInfo, DER."""


def read_csr(der: bytes, identity: SpiffeId) -> RequestedKey:
    """Return the key to certify for `identity`. Raises `IssuanceRefusedError` with a `csr/…` code."""
    if len(der) > MAX_BYTES:
        raise IssuanceRefusedError("csr/too-large", f"the CSR has {len(der)} bytes, more than {MAX_BYTES}")
    try:
        csr = x509.load_der_x509_csr(der)
        key = csr.public_key()
        algorithm = csr.signature_hash_algorithm
    except UNREADABLE as error:
        raise IssuanceRefusedError("csr/malformed", f"the CSR cannot be read: {error}") from error
    if not isinstance(key, EllipticCurvePublicKey | RSAPublicKey):
        raise IssuanceRefusedError("csr/key", "the CSR's key is neither elliptic nor RSA")
    _check_key(key)
    if algorithm is None or algorithm.name not in _HASHES:
        raise IssuanceRefusedError("csr/signature", "the CSR is not signed with SHA-256, SHA-384 or SHA-512")
    try:
        proven = csr.is_signature_valid
    except (ValueError, UnsupportedAlgorithm) as error:
        raise IssuanceRefusedError("csr/signature", f"the CSR's signature cannot be checked: {error}") from error
    if not proven:
        raise IssuanceRefusedError("csr/signature", "the CSR is not signed with the key that it holds")
    _check_extensions(csr, identity)
    return RequestedKey(key=key, spki=key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo))


def _check_key(key: PublicKey) -> None:
    if isinstance(key, RSAPublicKey):
        if not MIN_RSA_BITS <= key.key_size <= MAX_RSA_BITS:
            raise IssuanceRefusedError(
                "csr/key", f"the CSR's RSA key has {key.key_size} bits, not {MIN_RSA_BITS} to 4096"
            )
        if key.public_numbers().e < MIN_RSA_EXPONENT:
            raise IssuanceRefusedError(
                "csr/key", "the CSR's RSA key has a public exponent below 65537 (FIPS 186-5, A.1.1)"
            )
    elif not isinstance(key.curve, SECP256R1 | SECP384R1):
        raise IssuanceRefusedError("csr/key", f"the CSR's key is on curve {key.curve.name}, not P-256 or P-384")


def _check_extensions(csr: x509.CertificateSigningRequest, identity: SpiffeId) -> None:
    try:
        extensions = list(csr.extensions)
    except UNREADABLE as error:
        raise IssuanceRefusedError("csr/malformed", "the CSR's extensions cannot be read") from error
    for extension in extensions:
        value = extension.value
        if isinstance(value, x509.BasicConstraints) and value.ca:
            raise IssuanceRefusedError("csr/ca", "the CSR asks for the CA flag")
        if isinstance(value, x509.KeyUsage) and (value.key_cert_sign or value.crl_sign):
            raise IssuanceRefusedError("csr/ca", "the CSR asks for the right to sign certificates")
        if isinstance(value, x509.SubjectAlternativeName):
            names = value.get_values_for_type(x509.UniformResourceIdentifier)
            if len(names) != len(value) or any(name != str(identity) for name in names):
                raise IssuanceRefusedError("csr/san", "the CSR asks for names other than the token's identity")
