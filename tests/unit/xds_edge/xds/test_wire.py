"""Spliced bytes are those that the protobuf library writes."""

from __future__ import annotations

from envoy.extensions.transport_sockets.tls.v3.secret_pb2 import Secret
from envoy.service.discovery.v3.discovery_pb2 import DeltaDiscoveryResponse
from google.protobuf.any_pb2 import Any as AnyMessage
from hypothesis import given
from hypothesis import strategies as st

from services.xds_edge.xds import wire

names = st.text(max_size=200)


@given(
    version=st.integers(min_value=1, max_value=2**63),
    type_url=names,
    resources=st.lists(st.tuples(names, names, st.binary(max_size=300)), max_size=5),
    nonce=names,
    removed=st.lists(names, max_size=4),
)
def test_a_delta_response_is_byte_for_byte_the_librarys(
    version: int, type_url: str, resources: list[tuple[str, str, bytes]], nonce: str, removed: list[str]
) -> None:
    expected = DeltaDiscoveryResponse(
        system_version_info=str(version), type_url=type_url, nonce=nonce, removed_resources=removed
    )
    for name, digest, body in resources:
        expected.resources.add(name=name, version=digest, resource=AnyMessage(type_url=type_url, value=body))
    head = wire.delta_head(
        version, type_url, [wire.resource_frame(type_url, name, digest, body) for name, digest, body in resources]
    )
    assert head + wire.delta_end(nonce, wire.delta_tail(removed)) == expected.SerializeToString()


def test_a_body_of_megabytes_keeps_its_length() -> None:
    """Lengths of three and four varint bytes."""
    for size in (127, 128, 16383, 16384, 2_097_152):
        expected = DeltaDiscoveryResponse()
        expected.resources.add(name="n", version="v", resource=AnyMessage(type_url="t", value=b"x" * size))
        assert wire.delta_head(0, "", [wire.resource_frame("t", "n", "v", b"x" * size)]).removeprefix(b"\n\x010") == (
            expected.SerializeToString()
        )


@given(name=names, chain=st.binary(max_size=300), key=st.binary(max_size=300))
def test_secrets_are_byte_for_byte_the_librarys(name: str, chain: bytes, key: bytes) -> None:
    certificate = Secret(name=name)
    certificate.tls_certificate.certificate_chain.inline_bytes = chain
    certificate.tls_certificate.private_key.inline_bytes = key
    assert wire.certificate_secret(name, chain, key) == certificate.SerializeToString()
    trust = Secret(name=name)
    trust.validation_context.trusted_ca.inline_bytes = chain
    assert wire.trust_secret(name, chain) == trust.SerializeToString()
