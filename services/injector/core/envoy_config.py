"""Repeated parts of an Envoy configuration, as JSON: typed extensions, socket addresses, static clusters."""

from __future__ import annotations

from typing import Any

Json = dict[str, Any]
TYPE = "type.googleapis.com/"
HTTP_OPTIONS = "envoy.extensions.upstreams.http.v3.HttpProtocolOptions"


def extension(name: str, message: str, **fields: Any) -> Json:
    """Return a named extension with its typed configuration."""
    return {"name": name, "typed_config": {"@type": f"{TYPE}{message}", **fields}}


def socket_address(address: str, port: int) -> Json:
    """Return the address of a listener or an endpoint."""
    return {"socket_address": {"address": address, "port_value": port}}


def http_options(**fields: Any) -> Json:
    """Return the HTTP protocol options of a cluster, as a field of it."""
    return {"typed_extension_protocol_options": {HTTP_OPTIONS: {"@type": f"{TYPE}{HTTP_OPTIONS}", **fields}}}


def socket_mark(mark: int) -> Json:
    """Return the socket option that marks packets (SO_MARK)."""
    return {"level": 1, "name": 36, "int_value": mark, "state": "STATE_PREBIND"}


def local_cluster(name: str, port: int, timeout: float) -> Json:
    """Return a cluster of one port of the pod itself; `timeout` is that of connecting, in seconds."""
    return cluster_at(name, "127.0.0.1", port, timeout)


def cluster_at(name: str, address: str, port: int, timeout: float) -> Json:
    """Return a cluster of one address; `timeout` is that of connecting, in seconds."""
    endpoint = {"endpoint": {"address": socket_address(address, port)}}
    return {
        "name": name,
        "type": "STATIC",
        "connect_timeout": duration(timeout),
        "load_assignment": {"cluster_name": name, "endpoints": [{"lb_endpoints": [endpoint]}]},
    }


def duration(seconds: float) -> str:
    """Return a duration in the JSON form of protobuf; a day at most, so that no digits are lost to an exponent."""
    return f"{min(seconds, 86_400.0):.9g}s"


def literal(value: str) -> str:
    """Escape a header's value, which Envoy would read as a format."""
    return value.replace("%", "%%")
