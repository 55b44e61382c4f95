"""The listeners of the proxy that answer the kubelet's probes, and their clusters.

Any client that reaches the pod reaches these ports, without a certificate and without a policy. So the proxy forwards
nothing of a request to the application. A request that equals the probe's (`GET`, its opaque path without a query, the
headers that the probe declares, no body, HTTP/1.1) makes the proxy send the probe's own request, with the target,
`Host` and headers of the pod's specification. Any other request is answered with 404. No route leads to the proxy's
admin interface.

A connection carries one request and lasts seconds. Their number is limited; connections beyond it are closed before a
byte is read. Connections from other addresses than the node's have a limit of their own: they are forwarded to the same
listener again, so that all of them together leave room for the node's kubelet. (Envoy 1.40 has no limit per source. If
the network gives the kubelet another address than the node's, it shares the limit of the others.)
"""

from __future__ import annotations

import re
from collections.abc import Sequence

from services.injector.core.envoy_config import (
    Json,
    cluster_at,
    duration,
    extension,
    http_options,
    literal,
    local_cluster,
    socket_address,
    socket_mark,
)
from services.injector.core.probes import PORTS, Phase, Probe

READY_PATH = "/meshlog/ready"
"""Path on the readiness port that Envoy answers itself; it accepts connections only after it is configured."""
MAX_CONNECTIONS = 256
"""Open connections of one probe listener from other addresses than the node's; a probe opens one and closes it."""
NODE_CONNECTIONS = 128
"""Additional open connections from the node."""
REQUEST_SECONDS = 5
"""Time for the headers of a request, and for a connection without a request."""
BACKLOG = 4096
"""Connections that may wait to be accepted; the kernel may allow fewer."""
MAX_REQUEST_KIB = 16
"""Headers of one request in KiB: the probe's own and the kubelet's."""

POD_ADDRESS = "\x7f"
"""Placeholder of the pod's address, which `sidecar_containers` replaces. No text of a pod may contain it."""
NODE_ADDRESS = "\x7fnode\x7f"
"""Placeholder of the node's address."""
_FRAMING = "x-meshlog-framing"
"""Header with the request's `transfer-encoding`, which Envoy removes before it selects a route."""
_USER_AGENT = "kube-probe/1.0"
"""The kubelet's own contains its version, which is unknown here."""


def probe_listeners(probes: Sequence[Probe], *, ipv6: bool) -> list[Json]:
    """Return a listener for each kind of probe in use. `ipv6` is whether the pod's first address is an IPv6 address."""
    return [
        _listener(phase, [probe for probe in probes if probe.phase == phase], ipv6=ipv6) for phase in _phases(probes)
    ]


def listener_clusters(probes: Sequence[Probe], *, mark: int) -> list[Json]:
    """Return the clusters that lead to the listeners themselves, for connections from other addresses than the node's.

    `mark` is the proxy's socket mark; 0 for none.
    """
    bound = {"source_address": socket_address(POD_ADDRESS, 0)["socket_address"]}
    if mark:
        bound |= {"socket_options": [socket_mark(mark)]}
    return [
        cluster_at(_handed_on(phase), POD_ADDRESS, PORTS[phase], 1.0) | {"upstream_bind_config": bound}
        for phase in _phases(probes)
    ]


def _phases(probes: Sequence[Probe]) -> list[Phase]:
    """Return the kinds of probes that have a listener: always readiness, for the proxy's own probe."""
    return [phase for phase in PORTS if phase == "readiness" or any(probe.phase == phase for probe in probes)]


def probe_cluster(probe: Probe) -> Json:
    """Return the cluster of the application's port that a probe checks."""
    cluster = local_cluster(probe.cluster, probe.port, probe.timeout)
    if probe.scheme == "https":
        # The kubelet does not check certificates either.
        cluster["transport_socket"] = extension(
            "envoy.transport_sockets.tls", "envoy.extensions.transport_sockets.tls.v3.UpstreamTlsContext"
        )
    if probe.how == "forward":
        # One connection for each request, as the kubelet does: a kept connection could outlive the application.
        once = {"max_requests_per_connection": 1}
        return cluster | http_options(
            explicit_http_config={"http_protocol_options": {}}, common_http_protocol_options=once
        )
    check: Json = {
        "timeout": duration(probe.timeout),
        "interval": duration(probe.period),
        "no_traffic_interval": duration(probe.period),
        "unhealthy_interval": duration(min(1.0, probe.period)),
        "no_traffic_healthy_interval": duration(probe.period),
        "healthy_threshold": 1,
        "unhealthy_threshold": 1,
        "reuse_connection": False,
    }
    if probe.scheme == "grpc":
        check["grpc_health_check"] = {"service_name": probe.service} if probe.service else {}
        cluster |= http_options(explicit_http_config={"http2_protocol_options": {}})
    else:
        check["tcp_health_check"] = {}
    cluster["health_checks"] = [check]
    return cluster


def _listener(phase: Phase, probes: Sequence[Probe], *, ipv6: bool) -> Json:
    port = PORTS[phase]
    # For an IPv4 address Envoy reads a length of 128 as 32.
    served = [{"address_prefix": address, "prefix_len": 128} for address in (NODE_ADDRESS, POD_ADDRESS)]
    return {
        "name": f"probes-{phase}",
        "address": socket_address("0.0.0.0", port),  # noqa: S104 (the kubelet calls from outside the pod)
        # It may be an IPv6 address. `::` is not possible: without IPv6 in the kernel, the proxy would not start.
        "additional_addresses": [{"address": socket_address(POD_ADDRESS, port)}],
        "tcp_backlog_size": BACKLOG,
        "per_connection_buffer_limit_bytes": 65536,
        "filter_chains": [
            {
                "filter_chain_match": {"source_prefix_ranges": served},
                "filters": [
                    _at_most(MAX_CONNECTIONS + NODE_CONNECTIONS, f"probes-{phase}"),
                    _manager(phase, probes, ipv6=ipv6),
                ],
            },
            {"filters": [_at_most(MAX_CONNECTIONS, _handed_on(phase)), _hand_on(phase)]},
        ],
    }


def _handed_on(phase: Phase) -> str:
    return f"probes-{phase}-others"


def _hand_on(phase: Phase) -> Json:
    return extension(
        "envoy.filters.network.tcp_proxy",
        "envoy.extensions.filters.network.tcp_proxy.v3.TcpProxy",
        stat_prefix=_handed_on(phase),
        cluster=_handed_on(phase),
    )


def _at_most(connections: int, name: str) -> Json:
    return extension(
        "envoy.filters.network.connection_limit",
        "envoy.extensions.filters.network.connection_limit.v3.ConnectionLimit",
        stat_prefix=name,
        max_connections=connections,
    )


def _manager(phase: Phase, probes: Sequence[Probe], *, ipv6: bool) -> Json:
    name = f"probes-{phase}"
    filters = [_request_of_the_kubelet(), *(_answered(probe.path, probe) for probe in probes if probe.how == "check")]
    if phase == "readiness":
        filters.append(_answered(READY_PATH))
    filters.append(
        extension(
            "envoy.filters.http.router", "envoy.extensions.filters.http.router.v3.Router", suppress_envoy_headers=True
        )
    )
    return extension(
        "envoy.filters.network.http_connection_manager",
        "envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager",
        stat_prefix=name,
        codec_type="HTTP1",
        http_protocol_options={"allow_absolute_url": False},
        # Forward the application's answer unchanged: a probe must not fail because the proxy rewrites it.
        normalize_path=False,
        server_header_transformation="PASS_THROUGH",
        generate_request_id=False,
        max_request_headers_kb=MAX_REQUEST_KIB,
        common_http_protocol_options={
            "idle_timeout": f"{REQUEST_SECONDS}s",
            "max_headers_count": 100,
            "max_requests_per_connection": 1,
        },
        request_headers_timeout=f"{REQUEST_SECONDS}s",
        stream_idle_timeout=duration(max([REQUEST_SECONDS, *(probe.timeout + 1 for probe in probes)])),
        early_header_mutation_extensions=[_keep_framing()],
        http_filters=filters,
        route_config={
            "name": name,
            "virtual_hosts": [
                {
                    "name": "probes",
                    "domains": ["*"],
                    "routes": [
                        *_refused(),
                        *(_route(probe, ipv6=ipv6) for probe in probes if probe.how == "forward"),
                    ],
                    "request_headers_to_add": [
                        _header("user-agent", _USER_AGENT, "ADD_IF_ABSENT"),
                        _header("accept", "*/*", "ADD_IF_ABSENT"),
                    ],
                }
            ],
        },
    )


def _keep_framing() -> Json:
    kept = _header(_FRAMING, "%REQ(TRANSFER-ENCODING)%", "OVERWRITE_IF_EXISTS_OR_ADD")
    return extension(
        "envoy.http.early_header_mutation.header_mutation",
        "envoy.extensions.http.early_header_mutation.header_mutation.v3.HeaderMutation",
        mutations=[{"append": kept}],
    )


def _request_of_the_kubelet() -> Json:
    """Return the filter that drops all headers of a request after the route is chosen, and the proxy's from an answer.

    The kubelet counts a redirect as success, and its target is unreachable here, so `location` is dropped, too.
    """
    dropped = ("location", "x-envoy-upstream-healthchecked-cluster", "x-envoy-upstream-service-time")
    return extension(
        "envoy.filters.http.header_mutation",
        "envoy.extensions.filters.http.header_mutation.v3.HeaderMutation",
        mutations={
            # All but the pseudo headers.
            "request_mutations": [{"remove_on_match": {"key_matcher": {"safe_regex": {"regex": "[^:].*"}}}}],
            "response_mutations": [{"remove": name} for name in dropped],
        },
    )


def _answered(path: str, probe: Probe | None = None) -> Json:
    """Return the filter that answers a path by the proxy's own state, or by the health of a probe's port."""
    known = {"cluster_min_healthy_percentages": {probe.cluster: {"value": 100}}} if probe else {}
    return extension(
        "envoy.filters.http.health_check",
        "envoy.extensions.filters.http.health_check.v3.HealthCheck",
        pass_through_mode=False,
        headers=[
            {"name": ":path", "string_match": {"exact": path}},
            {"name": ":method", "string_match": {"exact": "GET"}},
        ],
        **known,
    )


def _refused() -> list[Json]:
    """Return the routes, before all others, of requests that the kubelet does not send: other method, query, body."""
    none: list[Json] = [
        {"name": ":method", "string_match": {"exact": "GET"}, "invert_match": True},
        {"name": ":path", "string_match": {"contains": "?"}},
        {"name": "content-length", "present_match": True},
        # Empty or "-", by Envoy's version, if the request has no `transfer-encoding`.
        {"name": _FRAMING, "string_match": {"safe_regex": {"regex": "-?"}}, "invert_match": True},
    ]
    return [{"match": {"prefix": "", "headers": [each]}, "direct_response": {"status": 404}} for each in none]


def _route(probe: Probe, *, ipv6: bool) -> Json:
    own = f"[{POD_ADDRESS}]" if ipv6 else POD_ADDRESS
    declared: dict[str, list[str]] = {}
    for name, value in probe.headers:
        declared.setdefault(name, []).append(value)
    if probe.host:
        declared[":authority"] = [probe.host]
    return {
        "match": {"path": probe.path}
        | ({"headers": [_declared(*each) for each in declared.items()]} if declared else {}),
        "route": {
            "cluster": probe.cluster,
            # The route matches the whole path, so this replaces all of it.
            "prefix_rewrite": probe.target,
            "host_rewrite_literal": probe.host or f"{own}:{probe.port}",
            "timeout": duration(probe.timeout),
        },
        "request_headers_to_add": [
            _header(name, literal(value), "APPEND_IF_EXISTS_OR_ADD") for name, value in probe.headers
        ],
    }


def _declared(name: str, values: Sequence[str]) -> Json:
    """Return the match of a header that the probe declares, which may be a secret: other values must not match."""
    if len(values) == 1 and values[0]:
        return {"name": name, "string_match": {"exact": values[0]}}
    # Depending on its version, Envoy compares several values of one name joined or one by one.
    first = f"{re.escape(values[0])}(,.*)?" if values[0] else ".*"
    return {"name": name, "string_match": {"safe_regex": {"regex": first}}}


def _header(name: str, value: str, action: str) -> Json:
    return {"header": {"key": name, "value": value}, "append_action": action, "keep_empty_value": True}
