"""Both sides of mutual TLS between sidecars.

Certificates and roots are named generically and come by SDS, so that the bytes of a cluster are the same for every
client. The identities permitted on the other side are in the matchers of names, next to the names' owner.
"""

from __future__ import annotations

from collections.abc import Sequence

from envoy.config.core.v3.base_pb2 import TransportSocket
from envoy.config.core.v3.config_source_pb2 import AggregatedConfigSource, ApiVersion, ConfigSource
from envoy.extensions.transport_sockets.tls.v3.common_pb2 import (
    CertificateValidationContext,
    SubjectAltNameMatcher,
    TlsParameters,
)
from envoy.extensions.transport_sockets.tls.v3.secret_pb2 import SdsSecretConfig
from envoy.extensions.transport_sockets.tls.v3.tls_pb2 import CommonTlsContext, DownstreamTlsContext, UpstreamTlsContext
from envoy.type.matcher.v3.string_pb2 import StringMatcher
from google.protobuf.duration_pb2 import Duration
from google.protobuf.message import Message
from google.protobuf.wrappers_pb2 import BoolValue

from services.compiler.envoy_names import MESH_PROTOCOL
from services.compiler.render.packing import packed
from shared.records.snapshot import SECRET_TRUST_BUNDLE, SECRET_WORKLOAD


def ads(*, patience: int = 0) -> ConfigSource:
    """The aggregated stream. `patience`: seconds after which Envoy goes on without the resource; 0: never."""
    return ConfigSource(
        ads=AggregatedConfigSource(),
        resource_api_version=ApiVersion.V3,
        initial_fetch_timeout=Duration(seconds=patience),
    )


def nobody(trust_domain: str) -> str:
    """An identity that no certificate carries: a list of names must not be empty, or it would match all."""
    return f"spiffe://{trust_domain}/nobody"


def _names(matchers: Sequence[StringMatcher]) -> CertificateValidationContext:
    return CertificateValidationContext(
        match_typed_subject_alt_names=[
            SubjectAltNameMatcher(san_type=SubjectAltNameMatcher.SanType.URI, matcher=matcher) for matcher in matchers
        ]
    )


def _common(names: CertificateValidationContext, *, offer: Sequence[str] = ()) -> CommonTlsContext:
    return CommonTlsContext(
        tls_params=TlsParameters(tls_minimum_protocol_version=TlsParameters.TlsProtocol.TLSv1_2),
        tls_certificate_sds_secret_configs=[SdsSecretConfig(name=SECRET_WORKLOAD, sds_config=ads())],
        combined_validation_context=CommonTlsContext.CombinedCertificateValidationContext(
            default_validation_context=names,
            validation_context_sds_secret_config=SdsSecretConfig(name=SECRET_TRUST_BUNDLE, sds_config=ads()),
        ),
        alpn_protocols=offer,
    )


def _socket(context: Message) -> TransportSocket:
    return TransportSocket(name="envoy.transport_sockets.tls", typed_config=packed(context))


def client_side(*, server_name: str, identities: Sequence[str], trust_domains: Sequence[str]) -> TransportSocket:
    """Connect to a service, whose pods have exactly these identities."""
    names = [StringMatcher(exact=identity) for identity in identities or (nobody(trust_domains[0]),)]
    return _socket(
        UpstreamTlsContext(common_tls_context=_common(_names(names), offer=[MESH_PROTOCOL]), sni=server_name)
    )


def server_side(*, trust_domains: Sequence[str], identities: Sequence[str] | None) -> TransportSocket:
    """Accept members of these trust domains that prove it; with `identities` (maybe none) these only."""
    if identities is None:
        names = [StringMatcher(prefix=f"spiffe://{domain}/ns/") for domain in trust_domains]
    else:
        names = [StringMatcher(exact=identity) for identity in identities or (nobody(trust_domains[0]),)]
    return _socket(
        DownstreamTlsContext(
            common_tls_context=_common(_names(names)),
            require_client_certificate=BoolValue(value=True),
        )
    )
