"""The search for secrets finds each one that is planted, however it is written down, and none where there is none."""

from __future__ import annotations

import base64
import secrets

import pytest
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, PublicFormat
from hypothesis import given
from hypothesis import strategies as st

from tests.e2e.secret_search import SecretSearch
from tests.unit.identity.cluster import Cluster

CLUSTER = Cluster()
TOKEN = CLUSTER.token()
KEY = ec.generate_private_key(ec.SECP256R1())
SCALAR = KEY.private_numbers().private_value.to_bytes(32, "big")
SEED = secrets.token_bytes(32)
KNOWING = SecretSearch()
KNOWING.token("the token", TOKEN)
KNOWING.key("the scalar", SCALAR)
KNOWING.key("the seed", SEED)


def pkcs8(key: ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey, encoding: Encoding) -> bytes:
    return key.private_bytes(encoding, PrivateFormat.PKCS8, NoEncryption())


@pytest.mark.parametrize(
    "secret",
    [TOKEN.split(".")[1].encode(), TOKEN.split(".")[2].encode(), SCALAR, SEED],
    ids=["payload", "signature", "scalar", "seed"],
)
@given(before=st.binary(max_size=40), after=st.binary(max_size=40))
def test_a_known_secret_is_found_in_every_spelling_and_place(secret: bytes, before: bytes, after: bytes) -> None:
    whole = before + secret + after
    for spelled in (whole, whole.hex().encode(), base64.b64encode(whole), base64.urlsafe_b64encode(whole)):
        assert KNOWING.look(spelled)
    assert not KNOWING.look(base64.b64encode(before + secret[: len(secret) // 2]))


@pytest.mark.parametrize("shift", range(3))
def test_a_key_that_nobody_knows_is_found_by_its_shape(shift: int) -> None:
    search = SecretSearch()
    for key in (ec.generate_private_key(ec.SECP256R1()), rsa.generate_private_key(65537, 2048)):
        der = bytes(shift) + pkcs8(key, Encoding.DER)
        for spelled in (der, der.hex().encode(), base64.b64encode(der)):
            assert search.look(spelled)
        assert search.look(pkcs8(key, Encoding.PEM))
        assert search.look(base64.b64encode(bytes(shift) + pkcs8(key, Encoding.PEM)))


def test_a_token_that_nobody_knows_is_found_by_its_shape() -> None:
    assert SecretSearch().look(f'{{"authorization": "Bearer {TOKEN}"}}'.encode()) == {"a token"}


def test_public_parts_are_no_secrets() -> None:
    search = SecretSearch()
    public = KEY.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
    names = b"PRIVATE meetings, eyJ alone, uid-bookbuyer-1"
    assert not search.look(public + names + CLUSTER.jwk["x"].encode())
