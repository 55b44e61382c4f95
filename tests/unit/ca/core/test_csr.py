"""A valid CSR and one mutation a row: only its public key is used, and what asks for more is refused."""

from __future__ import annotations

import contextlib
import ipaddress
from collections.abc import Callable
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import dsa, ec, ed25519, rsa
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509.oid import ExtendedKeyUsageOID, ExtensionOID, NameOID
from hypothesis import given, settings
from hypothesis import strategies as st

from services.ca.core.csr import MAX_BYTES, read_csr
from services.ca.core.errors import IssuanceRefusedError
from shared.identity.spiffe import SpiffeId
from tests.unit.identity.test_svid_validator import usage

BUYER = SpiffeId(trust_domain="cluster.local", namespace="bookstore", service_account="bookbuyer")


def csr(*extensions: x509.ExtensionType, key: Any = None, subject: str = "") -> bytes:
    key = key or ec.generate_private_key(ec.SECP256R1())
    names = [x509.NameAttribute(NameOID.COMMON_NAME, subject)] if subject else []
    builder = x509.CertificateSigningRequestBuilder().subject_name(x509.Name(names))
    for extension in extensions:
        builder = builder.add_extension(extension, critical=False)
    algorithm = None if isinstance(key, ed25519.Ed25519PrivateKey) else SHA256()
    return builder.sign(key, algorithm).public_bytes(Encoding.DER)


def uris(*names: str) -> x509.SubjectAlternativeName:
    return x509.SubjectAlternativeName([x509.UniformResourceIdentifier(name) for name in names])


@pytest.mark.parametrize(
    "valid",
    [
        csr,
        lambda: csr(subject="anything"),
        lambda: csr(uris(str(BUYER))),
        lambda: csr(usage()),
        lambda: csr(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.CODE_SIGNING, ExtendedKeyUsageOID.OCSP_SIGNING])),
        lambda: csr(x509.NameConstraints(permitted_subtrees=[x509.DNSName("")], excluded_subtrees=None)),
        lambda: csr(x509.UnrecognizedExtension(x509.ObjectIdentifier("1.3.6.1.4.1.99999.1"), b"\x05\x00")),
        lambda: csr(key=ec.generate_private_key(ec.SECP384R1())),
        lambda: csr(key=rsa.generate_private_key(65537, 2048)),
    ],
)
def test_a_csr_gives_its_public_key(valid: Callable[[], bytes]) -> None:
    der = valid()
    assert read_csr(der, BUYER).key == x509.load_der_x509_csr(der).public_key()


def flipped() -> bytes:
    der = csr()
    return der[:-1] + bytes([der[-1] ^ 1])


def names(*found: x509.GeneralName) -> bytes:
    return csr(x509.SubjectAlternativeName(found))


def garbage(oid: x509.ObjectIdentifier, value: bytes) -> bytes:
    """A well-known extension whose value is none."""
    return csr(x509.UnrecognizedExtension(oid, value))


def twice() -> bytes:
    """Two extensions of one kind, signed: the first asks for what is allowed, the second for another's name."""
    key = ec.generate_private_key(ec.SECP256R1())
    second = x509.UnrecognizedExtension(x509.ObjectIdentifier("2.5.29.99"), uris(str(BUYER) + "x").public_bytes())
    signed = x509.load_der_x509_csr(csr(uris(str(BUYER)), second, key=key))
    body = signed.tbs_certrequest_bytes.replace(b"\x55\x1d\x63", b"\x55\x1d\x11")
    assert body.count(b"\x55\x1d\x11") == 2
    signature = key.sign(body, ec.ECDSA(SHA256()))
    ecdsa_with_sha256 = bytes.fromhex("300a06082a8648ce3d040302")
    whole = body + ecdsa_with_sha256 + bytes([3, len(signature) + 1, 0]) + signature
    return b"\x30\x82" + len(whole).to_bytes(2, "big") + whole


@pytest.mark.parametrize(
    ("make", "code"),
    [
        (lambda: b"", "csr/malformed"),
        (lambda: b"\x30\x80", "csr/malformed"),
        (lambda: b"-----BEGIN CERTIFICATE REQUEST-----\n", "csr/malformed"),
        (lambda: csr() + b"\x00", "csr/malformed"),
        (lambda: csr()[:-1], "csr/malformed"),
        (lambda: bytes(MAX_BYTES + 1), "csr/too-large"),
        (lambda: bytes(1_000_000), "csr/too-large"),
        (flipped, "csr/signature"),
        (lambda: csr(key=rsa.generate_private_key(65537, 1024)), "csr/key"),  # noqa: S505 (that is the mutation)
        (lambda: csr(key=ec.generate_private_key(ec.SECP521R1())), "csr/key"),
        (lambda: csr(key=ec.generate_private_key(ec.SECP256K1())), "csr/key"),
        (lambda: csr(key=ed25519.Ed25519PrivateKey.generate()), "csr/key"),
        (lambda: csr(key=dsa.generate_private_key(2048)), "csr/key"),
        (lambda: csr(x509.BasicConstraints(ca=True, path_length=None)), "csr/ca"),
        (lambda: csr(usage(certificates=True)), "csr/ca"),
        (lambda: csr(usage(crl=True)), "csr/ca"),
        (lambda: csr(uris("spiffe://cluster.local/ns/bookstore/sa/bookthief")), "csr/san"),
        (lambda: csr(uris(str(BUYER), str(BUYER) + "x")), "csr/san"),
        (lambda: csr(x509.SubjectAlternativeName([x509.DNSName("bookstore.svc")])), "csr/san"),
        (lambda: names(x509.IPAddress(ipaddress.ip_address("10.0.0.1"))), "csr/san"),
        (lambda: names(x509.RFC822Name("root@bookstore.svc")), "csr/san"),
        (lambda: names(x509.DirectoryName(x509.Name([]))), "csr/san"),
        (lambda: names(x509.UniformResourceIdentifier(str(BUYER)), x509.DNSName("x")), "csr/san"),
        (lambda: csr(uris(str(BUYER).upper())), "csr/san"),
        (lambda: csr(uris(str(BUYER) + "/")), "csr/san"),
        (lambda: csr(uris(str(BUYER) + "%00")), "csr/san"),
        (lambda: csr(uris("spiffe://elsewhere/ns/bookstore/sa/bookbuyer")), "csr/san"),
        (lambda: csr(uris("https://cluster.local/ns/bookstore/sa/bookbuyer")), "csr/san"),
        (lambda: garbage(ExtensionOID.SUBJECT_ALTERNATIVE_NAME, b"garbage"), "csr/malformed"),
        (lambda: garbage(ExtensionOID.BASIC_CONSTRAINTS, b"\xff"), "csr/malformed"),
        (twice, "csr/malformed"),
        (lambda: csr(key=ec.generate_private_key(ec.SECP224R1())), "csr/key"),
        (lambda: csr(key=rsa.generate_private_key(3, 2048)), "csr/key"),
        (lambda: x509.load_der_x509_csr(csr()).public_bytes(Encoding.PEM), "csr/malformed"),
    ],
)
def test_one_mutation_is_refused(make: Callable[[], bytes], code: str) -> None:
    with pytest.raises(IssuanceRefusedError) as refused:
        read_csr(make(), BUYER)
    assert refused.value.code == code
    assert refused.value.retry_after == 0


_VALID = csr(uris(str(BUYER)))


@settings(max_examples=300, deadline=None)
@given(position=st.integers(0, len(_VALID) - 1), value=st.integers(0, 255))
def test_a_changed_byte_is_judged_not_crashed_on(position: int, value: int) -> None:
    changed = bytearray(_VALID)
    changed[position] = value
    with contextlib.suppress(IssuanceRefusedError):
        # What is taken still has the key of the original: its signature covers everything.
        assert read_csr(bytes(changed), BUYER).spki in _VALID


@settings(max_examples=100, deadline=None)
@given(noise=st.binary(max_size=200))
def test_noise_is_refused(noise: bytes) -> None:
    with pytest.raises(IssuanceRefusedError):
        read_csr(noise, BUYER)
