"""The bootstrap of the proxy: how it reaches and authenticates an edge, and the listeners for probes.

The edge serves all other configuration. The bootstrap is JSON, because the installed protobuf types may be older than
the Envoy that reads it (`header_value_prefix`, for example). Two documents accompany it (`token_source`,
`trust_source`): Envoy follows a rotated token or trust bundle only through a file-based SDS resource, which must be a
file itself (a secret in the bootstrap is read once: tried with 1.40). The pod has them as annotations, which a
projected volume turns into files beside token and bundle, so that no container has to write a file.
"""

from __future__ import annotations

import json
from collections.abc import Sequence

from services.injector.core.configuration import Installation
from services.injector.core.denial_response import denied_cluster, denied_listener, internal_listeners
from services.injector.core.envoy_config import TYPE, Json, extension, http_options, socket_address, socket_mark
from services.injector.core.probe_listeners import listener_clusters, probe_cluster, probe_listeners
from services.injector.core.probes import Probe
from shared.kubernetes.reserved_ports import ADMIN_PORT
from shared.meshconfig.pods import Sidecar
from shared.names import TRUST_BUNDLE_KEY

DIRECTORY = "/var/run/secrets/meshlog"
"""Where the projected volume is mounted in the proxy's container."""
TOKEN_FILE = "token"  # noqa: S105 (a file name)
BUNDLE_FILE = TRUST_BUNDLE_KEY
TOKEN_SOURCE_FILE = "token-source.json"  # noqa: S105 (a file name)
TRUST_SOURCE_FILE = "trust-source.json"

_EDGE = "meshlog-edge"
_INBOUND_LIMIT = "envoy.resource_limits.listener.inbound.connection_limit"
_SECRET = f"{TYPE}envoy.extensions.transport_sockets.tls.v3.Secret"


def bootstrap(
    installation: Installation,
    probes: Sequence[Probe],
    *,
    directory: str = DIRECTORY,
    admin_port: int = ADMIN_PORT,
    connections: int = Sidecar().max_inbound_connections,
) -> Json:
    """Return the static configuration. The node's id and cluster are flags, because they are known only in the pod."""
    config: Json = {
        "admin": {"address": socket_address("127.0.0.1", admin_port)},
        "dynamic_resources": {
            "ads_config": {
                "api_type": "DELTA_GRPC",
                "transport_api_version": "V3",
                "set_node_on_first_message_only": True,
                "grpc_services": [
                    {
                        "envoy_grpc": {
                            "cluster_name": _EDGE,
                            # Without it a reconnect after a long outage waits up to 30 s.
                            "retry_policy": {"retry_back_off": {"base_interval": "0.1s", "max_interval": "1s"}},
                        }
                    }
                ],
            },
            "cds_config": _from_edge(),
            "lds_config": _from_edge(),
        },
        "static_resources": {
            "clusters": [
                _edge(installation, directory),
                denied_cluster(),
                *map(probe_cluster, probes),
                *listener_clusters(probes, mark=installation.proxy_mark),
            ],
            "listeners": [denied_listener(), *probe_listeners(probes, ipv6=installation.ipv6)],
        },
        "bootstrap_extensions": [internal_listeners()],
        # For the inbound listener only: connections of strangers must not prevent the application's own calls.
        "layered_runtime": {"layers": [{"name": "limits", "static_layer": {_INBOUND_LIMIT: connections}}]},
        # Flush statistics only when they are requested: an idle proxy has no reader of them.
        "stats_flush_on_admin": True,
    }
    if installation.proxy_mark:
        marked = {"socket_options": [socket_mark(installation.proxy_mark)]}
        config["cluster_manager"] = {"upstream_bind_config": marked}
    return config


def token_source(*, directory: str = DIRECTORY) -> str:
    """Return the SDS document of the token, as JSON."""
    secret: Json = {"generic_secret": {"secret": {"filename": f"{directory}/{TOKEN_FILE}"} | _watched(directory)}}
    return _document("token", secret)


def trust_source(*, directory: str = DIRECTORY) -> str:
    """Return the SDS document of the roots for the edge's certificate, as JSON."""
    context: Json = {"trusted_ca": {"filename": f"{directory}/{BUNDLE_FILE}"}} | _watched(directory)
    return _document("edge-roots", {"validation_context": context})


def _document(name: str, secret: Json) -> str:
    resource: Json = {"@type": _SECRET, "name": name, **secret}
    return json.dumps({"resources": [resource]}, separators=(",", ":"), sort_keys=True)


def _watched(directory: str) -> Json:
    return {"watched_directory": {"path": directory}}


def _from_edge() -> Json:
    # 0 s: wait for the edge without a limit; without configuration the proxy must serve nothing.
    return {"ads": {}, "resource_api_version": "V3", "initial_fetch_timeout": "0s"}


def _from_file(name: str, path: str) -> Json:
    return {"name": name, "sds_config": {"path_config_source": {"path": path}, "resource_api_version": "V3"}}


def _edge(installation: Installation, directory: str) -> Json:
    credential = extension(
        "envoy.http.injected_credentials.generic",
        "envoy.extensions.http.injected_credentials.generic.v3.Generic",
        credential=_from_file("token", f"{directory}/{TOKEN_SOURCE_FILE}"),
        header="authorization",
        header_value_prefix="Bearer ",
    )
    injector = extension(
        "envoy.filters.http.credential_injector",
        "envoy.extensions.filters.http.credential_injector.v3.CredentialInjector",
        credential=credential,
        overwrite=True,
    )
    codec = extension(
        "envoy.filters.http.upstream_codec", "envoy.extensions.filters.http.upstream_codec.v3.UpstreamCodec"
    )
    # The DNS name as well, which the CA issues to the edge's account only: a pod outlives a change of the trust domain.
    identities = [
        {"san_type": "URI", "matcher": {"exact": installation.edge_identity}},
        {"san_type": "DNS", "matcher": {"exact": installation.edge_host}},
    ]
    tls = extension(
        "envoy.transport_sockets.tls",
        "envoy.extensions.transport_sockets.tls.v3.UpstreamTlsContext",
        sni=installation.edge_host,
        common_tls_context={
            "alpn_protocols": ["h2"],
            "combined_validation_context": {
                "default_validation_context": {"match_typed_subject_alt_names": identities},
                "validation_context_sds_secret_config": _from_file("edge-roots", f"{directory}/{TRUST_SOURCE_FILE}"),
            },
        },
    )
    endpoint = {"endpoint": {"address": socket_address(installation.edge_host, installation.edge_port)}}
    return {
        "name": _EDGE,
        "type": "STRICT_DNS",
        "connect_timeout": "1s",
        "dns_lookup_family": "V4_PREFERRED",
        "dns_refresh_rate": "5s",
        "dns_failure_refresh_rate": {"base_interval": "0.2s", "max_interval": "2s"},
        "load_assignment": {"cluster_name": _EDGE, "endpoints": [{"lb_endpoints": [endpoint]}]},
        "transport_socket": tls,
        **http_options(
            # The proxy leaves a frozen or unreachable edge for another after 8 s at most.
            explicit_http_config={
                "http2_protocol_options": {"connection_keepalive": {"interval": "5s", "timeout": "3s"}}
            },
            http_filters=[injector, codec],
        ),
    }
