"""Whatever arrives as a token is judged, never crashed on; and nothing but the original is taken."""

from __future__ import annotations

import base64
import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from shared.identity.service_account_tokens import TokenRefusedError, TokenVerifier
from tests.unit.identity.cluster import Cluster

NOW = 1_700_000_000.0
CLUSTER = Cluster(now=NOW)
TOKEN = CLUSTER.token()
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=12), inner, max_size=4),
    max_leaves=12,
)


VERIFIER = TokenVerifier({"devcluster": CLUSTER.issuer}, clock=lambda: NOW)


@settings(max_examples=200, deadline=None)
@given(position=st.integers(0, len(TOKEN) - 1), char=st.characters())
def test_a_changed_character_is_refused(position: int, char: str) -> None:
    changed = TOKEN[:position] + char + TOKEN[position + 1 :]
    if _same_bytes(changed):
        return
    with pytest.raises(TokenRefusedError):
        VERIFIER.verify(changed)


def _same_bytes(changed: str) -> bool:
    """Whether only bits changed that base64 leaves over at the end of the signature: they stand for nothing."""
    return changed.rpartition(".")[0] == TOKEN.rpartition(".")[0] and changed[:-1] == TOKEN[:-1]


@settings(max_examples=100, deadline=None)
@given(noise=st.text(max_size=300) | st.text("eyJ.-_ab", max_size=100))
def test_noise_is_refused(noise: str) -> None:
    with pytest.raises(TokenRefusedError):
        VERIFIER.verify(noise)


@settings(max_examples=100, deadline=None)
@given(header=JSON, payload=JSON)
def test_any_json_signed_by_nobody_is_refused(header: object, payload: object) -> None:
    parts = [base64.urlsafe_b64encode(json.dumps(part).encode()).rstrip(b"=").decode() for part in (header, payload)]
    with pytest.raises(TokenRefusedError):
        VERIFIER.verify(".".join([*parts, "AAAA"]))


@settings(max_examples=60, deadline=None)
@given(claims=JSON)
def test_any_claims_that_the_issuer_signed_are_judged(claims: object) -> None:
    """Even what the issuer's key signed must be the claims of a workload."""
    whole = {**CLUSTER.claims(), "kubernetes.io": claims}
    with pytest.raises(TokenRefusedError):
        VERIFIER.verify(CLUSTER.sign(whole))
