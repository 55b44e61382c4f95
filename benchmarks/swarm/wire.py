"""The two messages of delta ADS, as far as a proxy needs them, read and written without a protobuf library.

Field numbers are those of `envoy/service/discovery/v3/discovery.proto`. Only what a cluster or a listener refers to is
parsed with the library, and only when it changes.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import NamedTuple

CDS = "type.googleapis.com/envoy.config.cluster.v3.Cluster"
EDS = "type.googleapis.com/envoy.config.endpoint.v3.ClusterLoadAssignment"
LDS = "type.googleapis.com/envoy.config.listener.v3.Listener"
RDS = "type.googleapis.com/envoy.config.route.v3.RouteConfiguration"
SDS = "type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.Secret"
DELTA_PATH = "/envoy.service.discovery.v3.AggregatedDiscoveryService/DeltaAggregatedResources"


class Response(NamedTuple):
    """A `DeltaDiscoveryResponse`."""

    type_url: str
    nonce: str
    resources: list[tuple[str, str, bytes]]
    """Name, version, body."""
    removed: list[str]


def varint(number: int) -> bytes:
    """Base-128 number."""
    out = bytearray()
    while number > 0x7F:
        out.append(number & 0x7F | 0x80)
        number >>= 7
    out.append(number)
    return bytes(out)


def field(number: int, content: bytes) -> bytes:
    """A length-delimited field."""
    return varint(number << 3 | 2) + varint(len(content)) + content


def _fields(payload: bytes) -> Iterable[tuple[int, bytes]]:
    """The length-delimited fields of a message."""
    at, size = 0, len(payload)
    while at < size:
        tag, at = _read(payload, at)
        if tag & 7 == 2:
            length, at = _read(payload, at)
            yield tag >> 3, payload[at : at + length]
            at += length
        elif tag & 7 == 0:
            _, at = _read(payload, at)
        else:
            at += 8 if tag & 7 == 1 else 4


def _read(payload: bytes, at: int) -> tuple[int, int]:
    byte = payload[at]
    if byte < 0x80:
        return byte, at + 1
    number, shift = byte & 0x7F, 7
    while True:
        at += 1
        byte = payload[at]
        number |= (byte & 0x7F) << shift
        shift += 7
        if byte < 0x80:
            return number, at + 1


def read_response(payload: bytes) -> Response:
    """Read a `DeltaDiscoveryResponse`."""
    type_url = nonce = ""
    resources: list[tuple[str, str, bytes]] = []
    removed: list[str] = []
    for number, content in _fields(payload):
        if number == 2:
            resources.append(_resource(content))
        elif number == 4:
            type_url = content.decode()
        elif number == 5:
            nonce = content.decode()
        elif number == 6:
            removed.append(content.decode())
    return Response(type_url, nonce, resources, removed)


def _resource(payload: bytes) -> tuple[str, str, bytes]:
    name = version = ""
    body = b""
    for number, content in _fields(payload):
        if number == 1:
            version = content.decode()
        elif number == 3:
            name = content.decode()
        elif number == 2:
            body = next((value for inner, value in _fields(content) if inner == 2), b"")
    return name, version, body


def write_request(
    type_url: str,
    *,
    node: str = "",
    subscribe: Iterable[str] = (),
    unsubscribe: Iterable[str] = (),
    initial: Mapping[str, str] | None = None,
    nonce: str = "",
) -> bytes:
    """A `DeltaDiscoveryRequest`."""
    parts = [field(1, field(1, node.encode()))] if node else []
    parts.append(field(2, type_url.encode()))
    parts += [field(3, name.encode()) for name in subscribe]
    parts += [field(4, name.encode()) for name in unsubscribe]
    parts += [
        field(5, field(1, name.encode()) + field(2, version.encode())) for name, version in (initial or {}).items()
    ]
    if nonce:
        parts.append(field(6, nonce.encode()))
    return b"".join(parts)


def references(type_url: str, name: str, body: bytes) -> list[str]:
    """What a cluster (endpoints) or a listener (route configurations) asks for; none if the body is no such thing."""
    from google.protobuf.message import DecodeError

    try:
        return _endpoints_of(name, body) if type_url == CDS else _routes_of(body)
    except DecodeError:
        return []


def _endpoints_of(name: str, body: bytes) -> list[str]:
    from envoy.config.cluster.v3.cluster_pb2 import Cluster

    cluster = Cluster.FromString(body)
    if cluster.type != Cluster.DiscoveryType.EDS:
        return []
    return [cluster.eds_cluster_config.service_name or name]


def _routes_of(body: bytes) -> list[str]:
    from envoy.config.listener.v3.listener_pb2 import Listener
    from envoy.extensions.filters.network.http_connection_manager.v3.http_connection_manager_pb2 import (
        HttpConnectionManager,
    )

    found: list[str] = []
    listener = Listener.FromString(body)
    for chain in (*listener.filter_chains, listener.default_filter_chain):
        for filter_ in chain.filters:
            if filter_.typed_config.type_url.endswith(".HttpConnectionManager"):
                manager = HttpConnectionManager.FromString(filter_.typed_config.value)
                if manager.HasField("rds"):
                    found.append(manager.rds.route_config_name)
    return found
