"""A valid token and one mutation a row."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from typing import Any

import jwt
import pytest
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from hypothesis import given, settings
from hypothesis import strategies as st

from shared.model import TokenIssuer
from shared.tokens import CACHE_SECONDS, EXPIRY_LEEWAY, NOT_BEFORE_LEEWAY, TokenRefusedError, TokenVerifier
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


FORGERIES: list[tuple[Callable[[Cluster], str], str]] = [
    (lambda c: c.sign(c.claims(), key=ec.generate_private_key(ec.SECP256R1())), "token/signature"),
    (lambda c: c.sign(c.claims(), key=rsa.generate_private_key(65537, 2048), algorithm="RS256"), "token/signature"),
    (lambda c: c.sign(c.claims(), kid="key-2"), "token/signature"),
    (lambda c: jwt.encode(c.claims(), "", algorithm="none"), "token/signature"),
    (hs256_with_the_public_key, "token/signature"),
    (lambda c: c.token()[:-8] + "AAAAAAAA", "token/signature"),
    (lambda c: c.token().rsplit(".", 1)[0] + ".", "token/signature"),
    (lambda c: c.sign(c.claims(), crit=["x"], x=1), "token/malformed"),
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
