"""The proxy's answer to an application's call that no policy allows.

The outbound listener sends such connections to the cluster `denied`, which leads inside the proxy to this listener. It
inspects the client's first bytes: it answers an HTTP request and closes anything else. The outbound listener cannot
inspect them, because its listener filters apply to every connection, and would delay allowed connections whose server
sends first.
"""

from __future__ import annotations

from services.injector.core.envoy_config import Json, duration, extension
from shared.names import DENIED_CLUSTER

STATUS = 403
BODY = "denied by the mesh: no policy lets this workload call this address\n"
WAIT = 1.0
"""Seconds after which a connection without data is closed."""
IDLE = 10.0
"""Seconds that a connection is kept for a next request, and that the headers of a request may take."""
_LISTENER = "denied"
_HTTP = ("http/1.0", "http/1.1", "h2c")


def internal_listeners() -> Json:
    """Return the extension of the bootstrap by which a proxy connects to itself."""
    return extension(
        "envoy.bootstrap.internal_listener", "envoy.extensions.bootstrap.internal_listener.v3.InternalListener"
    )


def denied_cluster() -> Json:
    """Return the cluster that leads to `denied_listener`."""
    endpoint = {"endpoint": {"address": {"envoy_internal_address": {"server_listener_name": _LISTENER}}}}
    return {
        "name": DENIED_CLUSTER,
        "type": "STATIC",
        "connect_timeout": duration(WAIT),
        "load_assignment": {"cluster_name": DENIED_CLUSTER, "endpoints": [{"lb_endpoints": [endpoint]}]},
    }


def denied_listener() -> Json:
    """Return the listener that answers HTTP requests with 403 and a sentence, and closes other connections."""
    inspector = extension(
        "envoy.filters.listener.http_inspector", "envoy.extensions.filters.listener.http_inspector.v3.HttpInspector"
    )
    # `CONNECT`, and `OPTIONS *`, have no path.
    matches: list[Json] = [{"connect_matcher": {}}, {"prefix": ""}]
    response = {"status": STATUS, "body": {"inline_string": BODY}}
    manager = extension(
        "envoy.filters.network.http_connection_manager",
        "envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager",
        stat_prefix=_LISTENER,
        common_http_protocol_options={"idle_timeout": duration(IDLE)},
        request_headers_timeout=duration(IDLE),
        http_protocol_options={"accept_http_10": True, "default_host_for_http_10": "denied"},
        generate_request_id=False,
        http_filters=[extension("envoy.filters.http.router", "envoy.extensions.filters.http.router.v3.Router")],
        route_config={
            "name": _LISTENER,
            "virtual_hosts": [
                {
                    "name": _LISTENER,
                    "domains": ["*"],
                    "routes": [{"match": match, "direct_response": response} for match in matches],
                }
            ],
        },
    )
    return {
        "name": _LISTENER,
        "internal_listener": {},
        "listener_filters": [inspector],
        "listener_filters_timeout": duration(WAIT),
        "per_connection_buffer_limit_bytes": 65536,
        "filter_chains": [{"filter_chain_match": {"application_protocols": list(_HTTP)}, "filters": [manager]}],
    }
