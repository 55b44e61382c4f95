"""Admission of streams: refusals before the token is read, and the one place of the token."""

from __future__ import annotations

import pytest

from services.xds_edge.admission.authentication import StreamAdmission
from services.xds_edge.admission.rate_limit import StreamRate
from services.xds_edge.errors import Code, StreamRefusedError
from shared.identity.service_account_tokens import TokenVerifier, WorkloadToken
from tests.unit.xds_edge.grpc.test_ads_stream import CLAIMS


class Believing:
    """A verifier that takes every token."""

    @property
    def clusters(self) -> list[str]:
        return ["c"]

    def verify(self, token: str) -> WorkloadToken:
        assert token
        return CLAIMS


@pytest.mark.parametrize(
    ("draining", "version", "code"), [(True, 1, "stream/draining"), (False, 0, "stream/not-ready")]
)
def test_an_edge_that_cannot_serve_refuses_with_the_reason(draining: bool, version: int, code: str) -> None:  # noqa: FBT001
    gate = StreamAdmission(TokenVerifier(), rate=StreamRate(rate=1, burst=1), version=lambda: version)
    gate.draining = draining
    with pytest.raises(StreamRefusedError) as refused:
        gate.identify([("authorization", "Bearer x")])
    assert (refused.value.status, refused.value.code) == (Code.UNAVAILABLE, code)


@pytest.mark.parametrize(
    "metadata",
    [
        [],
        [("authorization", "Bearer x"), ("authorization", "Bearer x")],
        [("authorization", "Bearer x"), ("authorization", "Bearer y")],
        [("authorization", b"Bearer x")],
        [("authorization", "Basic x")],
        [("authorization", "x")],
        [("authorization-bin", b"Bearer x")],
        [("proxy-authorization", "Bearer x")],
    ],
)
def test_there_is_one_token_and_in_one_place(metadata: list[tuple[str, str | bytes]]) -> None:
    gate = StreamAdmission(Believing(), rate=StreamRate(rate=1, burst=1), version=lambda: 1)
    assert gate.identify([("authorization", "Bearer x")]) == (CLAIMS, "x")
    with pytest.raises(StreamRefusedError) as refused:
        gate.identify(metadata)
    assert (refused.value.status, refused.value.code) == (Code.UNAUTHENTICATED, "token/missing")
