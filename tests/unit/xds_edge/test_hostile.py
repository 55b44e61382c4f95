"""Garbage, and requests that are nearly right, end a stream with a status or are passed over; nothing else breaks."""

from __future__ import annotations

import random

import pytest
from envoy.service.discovery.v3.discovery_pb2 import DeltaDiscoveryRequest, DiscoveryRequest
from hypothesis import given, settings
from hypothesis import strategies as st

from services.xds_edge.xds.request_decode import BadRequestError, decode_delta, decode_sotw
from shared.records.snapshot import SDS, TYPE_URLS
from tests.unit.xds_edge.hostile import converse


@settings(max_examples=300, deadline=None)
@given(content=st.binary(max_size=600))
def test_any_bytes_are_survived(content: bytes) -> None:
    converse(content)


@settings(max_examples=200, deadline=None)
@given(seed=st.integers(min_value=0, max_value=2**32))
def test_requests_with_wild_fields_are_survived(seed: int) -> None:
    chance = random.Random(seed)  # noqa: S311
    names = ["a", "b", "*", "", "x", "\u00e9", "n" * 300]
    world = chance.random() < 0.5
    content = bytearray((255 if world else 0,))
    for _ in range(chance.randrange(12)):
        type_url = chance.choice([*TYPE_URLS, SDS, "", "type.googleapis.com/x"])
        nonce = chance.choice(["", "1", "2", "3", "999999999999", "-1", "x"])
        picked = chance.sample(names, chance.randrange(4))
        if world:
            message: DiscoveryRequest | DeltaDiscoveryRequest = DiscoveryRequest(
                type_url=type_url,
                response_nonce=nonce,
                resource_names=picked,
                version_info=chance.choice(["", "a=b,=,"]),
            )
        else:
            message = DeltaDiscoveryRequest(
                type_url=type_url,
                response_nonce=nonce,
                resource_names_subscribe=picked,
                resource_names_unsubscribe=chance.sample(names, chance.randrange(4)),
                initial_resource_versions=dict.fromkeys(chance.sample(names, chance.randrange(3)), "1"),
            )
        if chance.random() < 0.3:
            message.error_detail.message = "no"
        payload = bytearray(message.SerializeToString())
        if payload and chance.random() < 0.2:
            payload[chance.randrange(len(payload))] ^= 1 << chance.randrange(8)
        content += min(len(payload), 511).to_bytes(2, "big") + payload[:511]
    converse(bytes(content))


@pytest.mark.parametrize("decode", [decode_delta, decode_sotw])
@pytest.mark.parametrize("garbage", [b"\xff", b"\x0a\xff\xff\xff\xff\x0f", b"\x12\x02\xff\xfe", b"\x3b" * 200])
def test_what_is_no_request_is_refused(decode: object, garbage: bytes) -> None:
    assert callable(decode)
    with pytest.raises(BadRequestError):
        decode(garbage)
