"""The size of a client status response, and the proxies that it reads."""

from __future__ import annotations

import pytest
from envoy.service.status.v3.csds_pb2 import ClientStatusRequest, ClientStatusResponse

from services.xds_edge.errors import Code, StreamRefusedError
from services.xds_edge.grpc import csds
from services.xds_edge.grpc.csds import HeldConfig, HeldType
from shared.identity.service_account_tokens import WorkloadToken
from shared.records.snapshot import CDS
from tests.unit.xds_edge.grpc.test_ads_stream import CLAIMS

MEGABYTE = bytes(1024 * 1024)


def held(namespace: str, pod: str, *names: str) -> HeldConfig:
    return HeldConfig(namespace, pod, lambda: (HeldType(CDS, dict.fromkeys(names, "1"), {}, "", settled=True),))


def ask(proxies: list[HeldConfig], claims: WorkloadToken = CLAIMS, *, bare: bool = False) -> ClientStatusResponse:
    return ClientStatusResponse.FromString(
        csds.answer(
            ClientStatusRequest(exclude_resource_contents=bare).SerializeToString(),
            claims,
            proxies,
            mesh_namespace="meshlog-system",
            body=lambda _type, _name, _digest: MEGABYTE,
        )
    )


def test_resources_beyond_the_limit_are_refused_and_may_be_left_out() -> None:
    many = [held("n", f"p{number}", *(f"c{one}" for one in range(10))) for number in range(4)]
    with pytest.raises(StreamRefusedError) as refused:
        ask(many)
    assert refused.value.status == Code.RESOURCE_EXHAUSTED
    assert "exclude_resource_contents" in refused.value.sentence
    assert len(ask(many, bare=True).config) == 4
    assert len(ask(many[:3]).config) == 3


def test_more_proxies_than_the_limit_are_refused() -> None:
    with pytest.raises(StreamRefusedError):
        ask([held("n", f"p{number}") for number in range(csds.MOST + 1)])


def test_proxies_that_the_asker_may_not_see_are_not_even_looked_at() -> None:
    def look() -> tuple[HeldType, ...]:
        raise AssertionError

    assert len(ask([HeldConfig("elsewhere", "p", look), held("n", "p")]).config) == 1
