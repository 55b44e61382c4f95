"""Sealed tokens open for the CA and for their own CSR, and for nobody else."""

from __future__ import annotations

import hashlib
import hmac

import pytest
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from shared.identity.token_sealing import (
    MAX_SEALED,
    Opener,
    SealingError,
    binding,
    generate_sealing_key,
    seal,
    seal_token,
)
from shared.records.certificate_records import TrustBundle

TOKEN = b"header.payload.signature"


def test_what_is_sealed_opens_with_the_key_and_the_binding() -> None:
    old, new = generate_sealing_key(), generate_sealing_key()
    opener = Opener([new, old])
    for key in opener.public_keys:
        assert opener.open(key.id, seal(key.public, TOKEN, binding(b"csr")), binding(b"csr")) == TOKEN


def test_a_sender_seals_to_the_newest_key_of_the_bundle() -> None:
    opener = Opener([generate_sealing_key(), generate_sealing_key()])
    bundle = TrustBundle(trust_domain="cluster.local", serial=1, roots=[], sealing_keys=opener.public_keys)
    key_id, sealed = seal_token(bundle, TOKEN.decode(), b"csr")
    assert key_id == opener.public_keys[0].id
    assert TOKEN not in sealed
    assert opener.open(key_id, sealed, binding(b"csr")) == TOKEN


def test_a_bundle_without_a_sealing_key_seals_nothing() -> None:
    with pytest.raises(SealingError) as refused:
        seal_token(TrustBundle(trust_domain="cluster.local", serial=1, roots=[], sealing_keys=[]), "token", b"csr")
    assert refused.value.code == "sealing/key"


@pytest.mark.parametrize("change", ["csr", "flip", "cut", "grow", "empty", "huge", "other-key"])
def test_what_was_moved_or_damaged_does_not_open(change: str) -> None:
    opener, other = Opener([generate_sealing_key()]), Opener([generate_sealing_key()])
    key = (other if change == "other-key" else opener).public_keys[0]
    sealed, bound = seal(key.public, TOKEN, binding(b"csr")), binding(b"csr")
    match change:
        case "csr":
            bound = binding(b"another csr")
        case "flip":
            sealed = sealed[:-1] + bytes([sealed[-1] ^ 1])
        case "cut":
            sealed = sealed[:20]
        case "grow":
            sealed += b"\0"
        case "empty":
            sealed = b""
        case "huge":
            sealed = bytes(MAX_SEALED + 1)
        case _:
            pass
    with pytest.raises(SealingError) as refused:
        opener.open(opener.public_keys[0].id, sealed, bound)
    assert refused.value.code == "sealing/does-not-open"


def test_a_key_that_the_ca_does_not_hold_is_told_apart() -> None:
    opener = Opener([generate_sealing_key()])
    with pytest.raises(SealingError) as refused:
        opener.open("0" * 16, b"", b"")
    assert refused.value.code == "sealing/unknown-key"


@pytest.mark.parametrize("public", [b"", bytes(31), bytes(33), bytes(32)])
def test_a_public_key_that_is_none_is_refused(public: bytes) -> None:
    with pytest.raises(SealingError) as refused:
        seal(public, TOKEN, b"")
    assert refused.value.code == "sealing/key"


def test_the_sealed_form_is_that_of_rfc_9180() -> None:
    """Opened by the RFC's own formulas (sections 4 and 5.1), so that another implementation can open it too."""
    private = X25519PrivateKey.generate()
    public = private.public_key().public_bytes_raw()
    sealed = seal(public, TOKEN, binding(b"csr"))
    enc, ciphertext = sealed[:32], sealed[32:]
    shared = private.exchange(X25519PublicKey.from_public_bytes(enc))
    kem, suite = b"KEM\x00\x20", b"HPKE\x00\x20\x00\x01\x00\x02"
    secret = _expand(kem, _extract(kem, b"", b"eae_prk", shared), b"shared_secret", enc + public, 32)
    context = (
        b"\x00"
        + _extract(suite, b"", b"psk_id_hash", b"")
        + _extract(suite, b"", b"info_hash", b"meshlog/csr/v1" + binding(b"csr"))
    )
    prk = _extract(suite, secret, b"secret", b"")
    key, nonce = _expand(suite, prk, b"key", context, 32), _expand(suite, prk, b"base_nonce", context, 12)
    assert AESGCM(key).decrypt(nonce, ciphertext, b"") == TOKEN


def _extract(suite: bytes, salt: bytes, label: bytes, material: bytes) -> bytes:
    return hmac.digest(salt or bytes(32), b"HPKE-v1" + suite + label + material, hashlib.sha256)


def _expand(suite: bytes, prk: bytes, label: bytes, info: bytes, length: int) -> bytes:
    labelled = length.to_bytes(2, "big") + b"HPKE-v1" + suite + label + info
    return hmac.digest(prk, labelled + b"\x01", hashlib.sha256)[:length]
