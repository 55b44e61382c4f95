"""The bootstrap of the proxy: how it reaches an edge, who it believes there, and what answers its probes. Pure.

All else comes from the edge. JSON, because the installed protobuf types may be older than the Envoy that reads it
(`header_value_prefix`, say). Two documents accompany it (`token_source`, `trust_source`): Envoy follows a rotated
token or trust bundle only through a file-based SDS resource, which must itself be a file (a secret written into the
bootstrap is read once: tried with 1.40). The pod carries them as annotations, and a projected volume turns these
into files beside token and bundle, so nobody has to write a file in the pod.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

from services.injector.configuration import Installation
from services.injector.probes import PORTS, Phase, Probe

ADMIN_PORT = 15000
DIRECTORY = "/var/run/secrets/meshlog"
"""Where the projected volume is mounted in the proxy's container."""
TOKEN_FILE = "token"  # noqa: S105 (a file name)
BUNDLE_FILE = "bundle.pem"
TOKEN_SOURCE_FILE = "token-source.json"  # noqa: S105 (a file name)
TRUST_SOURCE_FILE = "trust-source.json"
READY_PATH = "/meshlog/ready"
"""On the readiness port: answered by Envoy's own `/ready`."""

_EDGE = "meshlog-edge"
_ADMIN = "meshlog-admin"
_TYPE = "type.googleapis.com/"
_SECRET = f"{_TYPE}envoy.extensions.transport_sockets.tls.v3.Secret"
_HTTP_OPTIONS = "envoy.extensions.upstreams.http.v3.HttpProtocolOptions"

Json = dict[str, Any]


def bootstrap(
    installation: Installation, probes: Sequence[Probe], *, directory: str = DIRECTORY, admin_port: int = ADMIN_PORT
) -> Json:
    """The static part of the configuration. The node's id and cluster are flags: they are known only in the pod."""
    config: Json = {
        "admin": {"address": _socket("127.0.0.1", admin_port)},
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
            "clusters": [_edge(installation, directory), _admin(admin_port), *map(_probe_cluster, probes)],
            "listeners": [
                _probe_listener(phase, [probe for probe in probes if probe.phase == phase])
                for phase in PORTS
                if phase == "readiness" or any(probe.phase == phase for probe in probes)
            ],
        },
        # Nobody pulls statistics from an idle proxy: flush them when they are asked for.
        "stats_flush_on_admin": True,
    }
    if installation.proxy_mark:
        mark = {"level": 1, "name": 36, "int_value": installation.proxy_mark, "state": "STATE_PREBIND"}
        config["cluster_manager"] = {"upstream_bind_config": {"socket_options": [mark]}}
    return config


def token_source(*, directory: str = DIRECTORY) -> str:
    """The SDS document of the token, as JSON."""
    secret: Json = {"generic_secret": {"secret": {"filename": f"{directory}/{TOKEN_FILE}"} | _watched(directory)}}
    return _document("token", secret)


def trust_source(*, directory: str = DIRECTORY) -> str:
    """The SDS document of the roots that the edge's certificate must come from, as JSON."""
    context: Json = {"trusted_ca": {"filename": f"{directory}/{BUNDLE_FILE}"}} | _watched(directory)
    return _document("edge-roots", {"validation_context": context})


def _document(name: str, secret: Json) -> str:
    resource: Json = {"@type": _SECRET, "name": name, **secret}
    return json.dumps({"resources": [resource]}, separators=(",", ":"), sort_keys=True)


def _watched(directory: str) -> Json:
    return {"watched_directory": {"path": directory}}


def _from_edge() -> Json:
    # 0 s: wait for the edge, however long; serving nothing is right as long as nothing is known.
    return {"ads": {}, "resource_api_version": "V3", "initial_fetch_timeout": "0s"}


def _from_file(name: str, path: str) -> Json:
    return {"name": name, "sds_config": {"path_config_source": {"path": path}, "resource_api_version": "V3"}}


def _socket(address: str, port: int) -> Json:
    return {"socket_address": {"address": address, "port_value": port}}


def _extension(name: str, message: str, **fields: Any) -> Json:
    return {"name": name, "typed_config": {"@type": f"{_TYPE}{message}", **fields}}


def _static(name: str, port: int, timeout: float) -> Json:
    endpoint = {"endpoint": {"address": _socket("127.0.0.1", port)}}
    return {
        "name": name,
        "type": "STATIC",
        "connect_timeout": f"{timeout:g}s",
        "load_assignment": {"cluster_name": name, "endpoints": [{"lb_endpoints": [endpoint]}]},
    }


def _edge(installation: Installation, directory: str) -> Json:
    credential = _extension(
        "envoy.http.injected_credentials.generic",
        "envoy.extensions.http.injected_credentials.generic.v3.Generic",
        credential=_from_file("token", f"{directory}/{TOKEN_SOURCE_FILE}"),
        header="authorization",
        header_value_prefix="Bearer ",
    )
    injector = _extension(
        "envoy.filters.http.credential_injector",
        "envoy.extensions.filters.http.credential_injector.v3.CredentialInjector",
        credential=credential,
        overwrite=True,
    )
    codec = _extension(
        "envoy.filters.http.upstream_codec", "envoy.extensions.filters.http.upstream_codec.v3.UpstreamCodec"
    )
    # By its name too, which the CA gives to the edge's account alone: a pod outlives a change of the trust domain.
    identities = [
        {"san_type": "URI", "matcher": {"exact": installation.edge_identity}},
        {"san_type": "DNS", "matcher": {"exact": installation.edge_host}},
    ]
    tls = _extension(
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
    endpoint = {"endpoint": {"address": _socket(installation.edge_host, installation.edge_port)}}
    return {
        "name": _EDGE,
        "type": "STRICT_DNS",
        "connect_timeout": "1s",
        "dns_lookup_family": "V4_PREFERRED",
        "dns_refresh_rate": "5s",
        "dns_failure_refresh_rate": {"base_interval": "0.2s", "max_interval": "2s"},
        "load_assignment": {"cluster_name": _EDGE, "endpoints": [{"lb_endpoints": [endpoint]}]},
        "transport_socket": tls,
        "typed_extension_protocol_options": {
            _HTTP_OPTIONS: {
                "@type": f"{_TYPE}{_HTTP_OPTIONS}",
                "explicit_http_config": {
                    # An edge that is frozen or cut off is left for another after 8 s at most.
                    "http2_protocol_options": {"connection_keepalive": {"interval": "5s", "timeout": "3s"}}
                },
                "http_filters": [injector, codec],
            }
        },
    }


def _admin(admin_port: int) -> Json:
    return _static(_ADMIN, admin_port, 1.0)


def _probe_cluster(probe: Probe) -> Json:
    cluster = _static(probe.cluster, probe.port, probe.timeout)
    if probe.scheme == "https":
        # The kubelet does not check certificates either.
        cluster["transport_socket"] = _extension(
            "envoy.transport_sockets.tls", "envoy.extensions.transport_sockets.tls.v3.UpstreamTlsContext"
        )
    if probe.how == "forward":
        return cluster
    check: Json = {
        "timeout": f"{probe.timeout:g}s",
        "interval": f"{probe.period:g}s",
        "no_traffic_interval": f"{probe.period:g}s",
        "unhealthy_interval": f"{min(1.0, probe.period):g}s",
        "no_traffic_healthy_interval": f"{probe.period:g}s",
        "healthy_threshold": 1,
        "unhealthy_threshold": 1,
        "reuse_connection": False,
    }
    if probe.scheme == "grpc":
        check["grpc_health_check"] = {"service_name": probe.service} if probe.service else {}
        cluster["typed_extension_protocol_options"] = {
            _HTTP_OPTIONS: {
                "@type": f"{_TYPE}{_HTTP_OPTIONS}",
                "explicit_http_config": {"http2_protocol_options": {}},
            }
        }
    else:
        check["tcp_health_check"] = {}
    cluster["health_checks"] = [check]
    return cluster


def _probe_listener(phase: Phase, probes: Sequence[Probe]) -> Json:
    routes: list[Json] = [_forwarding(probe) for probe in probes if probe.how == "forward"]
    if phase == "readiness":
        ready = {"match": {"path": READY_PATH}, "route": {"cluster": _ADMIN, "prefix_rewrite": "/ready"}}
        routes = [ready, *routes]
    filters = [_checking(probe) for probe in probes if probe.how == "check"]
    filters.append(_extension("envoy.filters.http.router", "envoy.extensions.filters.http.router.v3.Router"))
    manager = _extension(
        "envoy.filters.network.http_connection_manager",
        "envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager",
        stat_prefix=f"probes-{phase}",
        # The application's own answer, unchanged, however odd: a probe must not fail for the proxy's taste.
        normalize_path=False,
        server_header_transformation="PASS_THROUGH",
        generate_request_id=False,
        http_filters=filters,
        route_config={
            "name": f"probes-{phase}",
            "virtual_hosts": [{"name": "probes", "domains": ["*"], "routes": routes}],
        },
    )
    return {
        "name": f"probes-{phase}",
        "address": _socket("0.0.0.0", PORTS[phase]),  # noqa: S104 (the kubelet calls from outside the pod)
        "filter_chains": [{"filters": [manager]}],
    }


def _forwarding(probe: Probe) -> Json:
    return {
        "match": {"prefix": f"{probe.path}/"},
        "route": {"cluster": probe.cluster, "prefix_rewrite": "/", "timeout": f"{probe.timeout:g}s"},
    }


def _checking(probe: Probe) -> Json:
    return _extension(
        "envoy.filters.http.health_check",
        "envoy.extensions.filters.http.health_check.v3.HealthCheck",
        pass_through_mode=False,
        headers=[{"name": ":path", "string_match": {"exact": probe.path}}],
        cluster_min_healthy_percentages={probe.cluster: {"value": 100}},
    )
