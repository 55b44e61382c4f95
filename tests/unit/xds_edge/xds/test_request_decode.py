"""Requests by hand and by the library: the short way for plain ACKs reads nothing that the library reads otherwise."""

from __future__ import annotations

from typing import Any

import pytest
from envoy.service.discovery.v3.discovery_pb2 import DeltaDiscoveryRequest
from hypothesis import example, given
from hypothesis import strategies as st

from services.xds_edge.xds.request_decode import BadRequestError, decode_delta
from services.xds_edge.xds.subscription import XdsRequest
from shared.records.snapshot import CDS, EDS, SDS

ACK = DeltaDiscoveryRequest(type_url=EDS, response_nonce="17").SerializeToString()


def by_the_library(payload: bytes) -> tuple[XdsRequest, str] | None:
    try:
        message = DeltaDiscoveryRequest.FromString(payload)
    except Exception:  # noqa: BLE001 (whatever it raises, it cannot read it)
        return None
    request = XdsRequest(
        message.type_url,
        tuple(message.resource_names_subscribe),
        tuple(message.resource_names_unsubscribe),
        dict(message.initial_resource_versions),
        message.response_nonce,
        message.error_detail.message if message.HasField("error_detail") else None,
    )
    return request, message.node.id


def by_hand(payload: bytes) -> tuple[XdsRequest, str] | None:
    try:
        return decode_delta(payload)
    except BadRequestError:
        return None


@pytest.mark.parametrize("type_url", [CDS, EDS, SDS, "another"])
@pytest.mark.parametrize("nonce", ["1", "x" * 127, "x" * 128, "ö", ""])
@pytest.mark.parametrize("more", [{}, {"resource_names_subscribe": ["a"]}, {"error_detail": {"message": "no"}}])
def test_every_answer_is_read_as_the_library_reads_it(type_url: str, nonce: str, more: dict[str, Any]) -> None:
    payload = DeltaDiscoveryRequest(type_url=type_url, response_nonce=nonce, **more).SerializeToString()
    assert by_hand(payload) == by_the_library(payload)


@given(
    payload=st.binary(max_size=6) | st.just(ACK),
    cut=st.integers(0, len(ACK) + 200),
    at=st.integers(0, len(ACK) - 1),
    byte=st.integers(0, 255),
    tail=st.binary(max_size=4),
)
@example(payload=ACK, cut=len(ACK), at=len(ACK) - 1, byte=0xFF, tail=b"")
@example(payload=ACK[:-3] + b"\x80\x01" + b"x" * 127, cut=len(ACK) + 200, at=0, byte=ACK[0], tail=b"")
@example(payload=ACK, cut=len(ACK), at=len(ACK) - 3, byte=0x80, tail=b"")
def test_damaged_answers_are_read_as_the_library_reads_them(
    payload: bytes, cut: int, at: int, byte: int, tail: bytes
) -> None:
    damaged = bytearray(payload)
    if at < len(damaged):
        damaged[at] = byte
    content = bytes(damaged[:cut]) + tail
    assert by_hand(content) == by_the_library(content)
