"""A valid token and one mutation a row."""

from __future__ import annotations

import base64
import contextlib
import hmac
import json
from collections.abc import Callable
from typing import Any

import jwt
import pytest
from cryptography.hazmat.primitives.asymmetric import ec, rsa, utils
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from hypothesis import given, settings
from hypothesis import strategies as st

from shared.identity.service_account_tokens import (
    CACHE_SECONDS,
    EXPIRY_LEEWAY,
    NOT_BEFORE_LEEWAY,
    TokenRefusedError,
    TokenVerifier,
)
from shared.projected_objects import TokenIssuer
from tests.unit.identity.cluster import ISSUER, Cluster

NOW = 1_700_000_000.0
Claims = dict[str, Any]


def bound(claims: Claims) -> Claims:
    return claims["kubernetes.io"]


def without(name: str) -> Callable[[Claims], object]:
    return lambda claims: claims.pop(name)


def given_as(name: str, value: Any) -> Callable[[Claims], object]:
    return lambda claims: claims.update({name: value})


def of_bound(name: str, value: Any) -> Callable[[Claims], object]:
    return lambda claims: bound(claims).update({name: value})


@pytest.fixture
def cluster() -> Cluster:
    return Cluster(now=NOW)


@pytest.fixture
def verifier(cluster: Cluster) -> TokenVerifier:
    return TokenVerifier({"devcluster": cluster.issuer}, clock=lambda: cluster.now)


@pytest.mark.parametrize("algorithm", ["ES256", "RS256"])
def test_a_projected_token_proves_its_pod(algorithm: str) -> None:
    cluster = Cluster(now=NOW, algorithm=algorithm)
    verifier = TokenVerifier({"devcluster": cluster.issuer}, clock=lambda: NOW)
    token = verifier.verify(cluster.token())
    assert (token.cluster, token.namespace, token.service_account) == ("devcluster", "bookstore", "bookbuyer")
    assert (token.pod_name, token.pod_uid, token.service_account_uid) == (
        "bookbuyer-1",
        "uid-bookbuyer-1",
        "uid-bookbuyer",
    )


@pytest.mark.parametrize(
    ("mutate", "code"),
    [
        (given_as("aud", ["api"]), "token/audience"),
        (given_as("aud", []), "token/audience"),
        (given_as("aud", "https://kubernetes.default.svc"), "token/audience"),
        (given_as("aud", "meshlogx"), "token/audience"),
        (given_as("exp", NOW - EXPIRY_LEEWAY), "token/expired"),
        (given_as("exp", -1), "token/expired"),
        (given_as("exp", "soon"), "token/malformed"),
        (given_as("exp", None), "token/malformed"),
        (given_as("exp", True), "token/malformed"),
        (given_as("exp", [NOW + 60]), "token/malformed"),
        (given_as("exp", float("nan")), "token/malformed"),
        (given_as("exp", float("inf")), "token/malformed"),
        (given_as("nbf", "yesterday"), "token/malformed"),
        (given_as("aud", {"meshlog": True}), "token/malformed"),
        (given_as("nbf", NOW + NOT_BEFORE_LEEWAY + 1), "token/not-yet-valid"),
        (given_as("iss", "https://elsewhere"), "token/issuer"),
        (given_as("iss", ISSUER + "/"), "token/issuer"),
        (given_as("iss", ISSUER.upper()), "token/issuer"),
        (given_as("iss", 7), "token/malformed"),
        (without("iss"), "token/malformed"),
        (without("exp"), "token/malformed"),
        (without("aud"), "token/malformed"),
        (without("sub"), "token/malformed"),
        (without("kubernetes.io"), "token/not-bound-to-pod"),
        (of_bound("pod", None), "token/not-bound-to-pod"),
        (of_bound("pod", {"name": "", "uid": "u"}), "token/not-bound-to-pod"),
        (of_bound("pod", {"name": "p", "uid": ""}), "token/not-bound-to-pod"),
        (of_bound("pod", {"name": "p"}), "token/malformed"),
        (of_bound("namespace", "bookthief"), "token/malformed"),
        (of_bound("serviceaccount", {"name": "bookthief", "uid": "u"}), "token/malformed"),
        (given_as("sub", "system:serviceaccount:bookstore:bookthief"), "token/malformed"),
        (given_as("sub", "admin"), "token/malformed"),
    ],
)
def test_one_wrong_claim_is_refused(
    cluster: Cluster, verifier: TokenVerifier, mutate: Callable[[Claims], object], code: str
) -> None:
    claims = cluster.claims()
    mutate(claims)
    token = cluster.sign(claims)
    with pytest.raises(TokenRefusedError) as refused:
        verifier.verify(token)
    assert refused.value.code == code
    assert not any(part in str(refused.value) for part in token.split("."))


def hs256_with_the_public_key(cluster: Cluster) -> str:
    return jwt.encode(cluster.claims(), cluster.jwk["x"] * 2, algorithm="HS256", headers={"kid": cluster.kid})


def parts(cluster: Cluster) -> list[str]:
    return cluster.token().split(".")


def with_signature(cluster: Cluster, signature: bytes) -> str:
    head, claims, _ = parts(cluster)
    return f"{head}.{claims}.{base64.urlsafe_b64encode(signature).rstrip(b'=').decode()}"


def as_der(cluster: Cluster) -> str:
    """The right signature, encoded as TLS encodes it."""
    raw = base64.urlsafe_b64decode(parts(cluster)[2] + "==")
    whole = utils.encode_dss_signature(int.from_bytes(raw[:32], "big"), int.from_bytes(raw[32:], "big"))
    return with_signature(cluster, whole)


def by_a_strangers_key(**headers: Any) -> Callable[[Cluster], str]:
    """Signed by a stranger, whose key the header offers."""
    stranger = Cluster(now=NOW)
    return lambda c: stranger.sign(c.claims(), jwk=stranger.jwk, **headers)


def with_header(name: str, value: Any) -> Callable[[Cluster], str]:
    """A header that no key of the issuer has signed like that."""

    def forged(cluster: Cluster) -> str:
        _, claims, signature = parts(cluster)
        head = json.dumps({"alg": "ES256", "kid": cluster.kid, "typ": "JWT", name: value}).encode()
        return f"{base64.urlsafe_b64encode(head).rstrip(b'=').decode()}.{claims}.{signature}"

    return forged


FORGERIES: list[tuple[Callable[[Cluster], str], str]] = [
    (lambda c: c.sign(c.claims(), key=ec.generate_private_key(ec.SECP256R1())), "token/signature"),
    (lambda c: c.sign(c.claims(), key=rsa.generate_private_key(65537, 2048), algorithm="RS256"), "token/signature"),
    (lambda c: c.sign(c.claims(), kid="key-2"), "token/signature"),
    (lambda c: jwt.encode(c.claims(), "", algorithm="none"), "token/signature"),
    (hs256_with_the_public_key, "token/signature"),
    (lambda c: c.token()[:-8] + "AAAAAAAA", "token/signature"),
    (lambda c: c.token().rsplit(".", 1)[0] + ".", "token/signature"),
    (lambda c: c.sign(c.claims(), crit=["x"], x=1), "token/malformed"),
    (lambda c: jwt.encode(c.claims(), "", algorithm="none").rstrip("."), "token/malformed"),
    (with_header("alg", "none"), "token/signature"),
    (with_header("alg", "NONE"), "token/signature"),
    (with_header("alg", "es256"), "token/signature"),
    (with_header("alg", "ES256K"), "token/signature"),
    (with_header("alg", None), "token/signature"),
    (with_header("alg", ["ES256"]), "token/signature"),
    (with_header("kid", "../../../dev/null"), "token/signature"),
    (with_header("kid", "key-1' OR '1'='1"), "token/signature"),
    (with_header("kid", ["key-1"]), "token/signature"),
    (with_header("kid", 1), "token/signature"),
    (with_header("b64", False), "token/signature"),
    (by_a_strangers_key(), "token/signature"),
    (by_a_strangers_key(jku="http://127.0.0.1:1/jwks"), "token/signature"),
    (by_a_strangers_key(x5u="http://127.0.0.1:1/x5u"), "token/signature"),
    (by_a_strangers_key(x5c=["MIIB"]), "token/signature"),
    (lambda c: with_signature(c, bytes(64)), "token/signature"),
    (lambda c: with_signature(c, b"\xff" * 64), "token/signature"),
    (lambda c: with_signature(c, b""), "token/signature"),
    (as_der, "token/signature"),
    (lambda c: " " + c.token(), "token/malformed"),
    (lambda c: c.token().replace(".", ". "), "token/malformed"),
    (lambda c: c.token().replace(".", "=."), "token/malformed"),
    (lambda c: c.token() + "\0", "token/malformed"),
    (lambda c: c.token() + "\n", "token/malformed"),
    (lambda c: c.token() + "." + c.token(), "token/malformed"),
    (lambda c: "Bearer " + c.token(), "token/malformed"),
    (lambda c: c.sign({**c.claims(), "fill": "x" * 20000}), "token/malformed"),
    (lambda _: "", "token/malformed"),
    (lambda _: "..", "token/malformed"),
    (lambda _: "\udc80.é.x", "token/malformed"),
]


@pytest.mark.parametrize(("forge", "code"), FORGERIES)
def test_one_wrong_part_is_refused(
    cluster: Cluster, verifier: TokenVerifier, forge: Callable[[Cluster], str], code: str
) -> None:
    with pytest.raises(TokenRefusedError) as refused:
        verifier.verify(forge(cluster))
    assert refused.value.code == code


@pytest.mark.parametrize("algorithm", ["PS256", "RS384", "RS512", "HS256"])
def test_a_key_of_rsa_verifies_its_own_algorithm_and_no_other(algorithm: str) -> None:
    """Also not the one of a secret, whose bytes would be those of the public key."""
    cluster = Cluster(now=NOW, algorithm="RS256")
    verifier = TokenVerifier({"devcluster": cluster.issuer}, clock=lambda: NOW)
    assert verifier.verify(cluster.token()).pod_name == "bookbuyer-1"
    if algorithm == "HS256":
        public = cluster.key.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
        head = base64.urlsafe_b64encode(json.dumps({"alg": "HS256", "kid": cluster.kid}).encode()).rstrip(b"=")
        signed = head + b"." + cluster.token().split(".")[1].encode()
        made = base64.urlsafe_b64encode(hmac.digest(public, signed, "sha256")).rstrip(b"=")
        token = (signed + b"." + made).decode()
    else:
        token = cluster.sign(cluster.claims(), algorithm=algorithm)
    with pytest.raises(TokenRefusedError) as refused:
        verifier.verify(token)
    assert refused.value.code == "token/signature"


@pytest.mark.parametrize("number", ["1e400", "NaN", "Infinity", "1" * 400])
def test_an_expiry_that_no_clock_reaches_is_refused(cluster: Cluster, verifier: TokenVerifier, number: str) -> None:
    """As the issuer would have to write it, for Python writes none of these by itself."""
    claims = json.dumps({**cluster.claims(), "exp": 0}).replace('"exp": 0', f'"exp": {number}')
    token = jwt.PyJWS().encode(claims.encode(), cluster.key, algorithm="ES256", headers={"kid": cluster.kid})
    with pytest.raises(TokenRefusedError) as refused:
        verifier.verify(token)
    assert refused.value.code == "token/malformed"


@pytest.mark.parametrize("depth", [100, 5_000])
def test_claims_nested_without_end_are_refused(cluster: Cluster, verifier: TokenVerifier, depth: int) -> None:
    nested = "[" * depth + "]" * depth
    claims = json.dumps({**cluster.claims(), "kubernetes.io": 0}).replace(
        '"kubernetes.io": 0', f'"kubernetes.io": {nested}'
    )
    token = jwt.PyJWS().encode(claims.encode(), cluster.key, algorithm="ES256", headers={"kid": cluster.kid})
    with pytest.raises(TokenRefusedError) as refused:
        verifier.verify(token)
    assert refused.value.code == "token/malformed"


def test_a_token_of_another_cluster_with_the_same_issuer_text_is_told_apart(cluster: Cluster) -> None:
    other = Cluster("other", now=NOW)
    verifier = TokenVerifier({"devcluster": cluster.issuer, "other": other.issuer}, clock=lambda: NOW)
    token = other.token()
    assert verifier.verify(token).cluster == "other"
    assert verifier.verify(token, cluster="other").cluster == "other"
    with pytest.raises(TokenRefusedError):
        verifier.verify(token, cluster="devcluster")  # from the cache
    verifier.set_issuer("third", cluster.issuer)  # empties the cache
    with pytest.raises(TokenRefusedError):
        verifier.verify(token, cluster="devcluster")


def test_a_cached_token_expires_all_the_same(cluster: Cluster, verifier: TokenVerifier) -> None:
    token = cluster.sign({**cluster.claims(), "exp": NOW + 5})
    verifier.verify(token)
    cluster.now += 5 + EXPIRY_LEEWAY
    assert cluster.now - NOW < CACHE_SECONDS
    with pytest.raises(TokenRefusedError, match="expired"):
        verifier.verify(token)


def test_new_keys_of_the_issuer_count_at_once(cluster: Cluster, verifier: TokenVerifier) -> None:
    token = cluster.token()
    verifier.verify(token)
    verifier.set_issuer("devcluster", Cluster(now=NOW).issuer)
    with pytest.raises(TokenRefusedError) as refused:
        verifier.verify(token)
    assert refused.value.code == "token/signature"
    verifier.set_issuer("devcluster", None)
    with pytest.raises(TokenRefusedError) as refused:
        verifier.verify(token)
    assert refused.value.code == "token/issuer"


@pytest.mark.parametrize(
    "keys",
    [
        [],
        None,
        ["text"],
        [{}],
        [{"kty": "oct", "k": "c2VjcmV0"}],
        [{"kty": "EC", "crv": "P-256", "x": "AA", "y": "AA"}],
        {"kty": "EC"},
        [{"kty": "EC", "crv": "secp256k1", "x": "AA", "y": "AA"}],
        [{"kty": "OKP", "crv": "Ed25519", "x": "AA"}],
    ],
)
def test_unusable_keys_are_left_out(cluster: Cluster, keys: Any) -> None:
    verifier = TokenVerifier({"devcluster": TokenIssuer(issuer=ISSUER, jwks={"keys": keys})}, clock=lambda: NOW)
    with pytest.raises(TokenRefusedError) as refused:
        verifier.verify(cluster.token())
    assert refused.value.code == "token/signature"


@settings(max_examples=150, deadline=None)
@given(text=st.one_of(st.text(max_size=60), st.from_regex(r"[A-Za-z0-9_-]{0,30}(\.[A-Za-z0-9_-]{0,60}){2}")))
def test_any_text_is_refused_and_nothing_else_is_raised(text: str) -> None:
    verifier = TokenVerifier({"devcluster": _FUZZED.issuer}, clock=lambda: NOW)
    with pytest.raises(TokenRefusedError):
        verifier.verify(text)


@settings(max_examples=100, deadline=None)
@given(
    payload=st.recursive(
        st.none() | st.booleans() | st.integers(-(2**60), 2**60) | st.text(max_size=8),
        lambda children: st.lists(children, max_size=3) | st.dictionaries(st.text(max_size=8), children, max_size=3),
        max_leaves=8,
    ),
    name=st.sampled_from(["aud", "exp", "nbf", "iat", "jti", "sub", "kubernetes.io"]),
)
def test_any_claim_of_any_shape_is_judged_not_crashed_on(payload: Any, name: str) -> None:
    verifier = TokenVerifier({"devcluster": _FUZZED.issuer}, clock=lambda: NOW)
    with contextlib.suppress(TokenRefusedError):
        assert verifier.verify(_FUZZED.sign({**_FUZZED.claims(), name: payload})).namespace == "bookstore"


_FUZZED = Cluster(now=NOW)
