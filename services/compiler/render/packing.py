"""Messages to bytes: equal messages give equal bytes, on any machine."""

from __future__ import annotations

from typing import Any

from google.protobuf.any_pb2 import Any as AnyMessage
from google.protobuf.message import Message

from services.compiler.ir import Rendered
from shared.records.snapshot import CDS, EDS, LDS, RDS, resource_hash

_TYPES = {
    "envoy.config.cluster.v3.Cluster": CDS,
    "envoy.config.endpoint.v3.ClusterLoadAssignment": EDS,
    "envoy.config.listener.v3.Listener": LDS,
    "envoy.config.route.v3.RouteConfiguration": RDS,
}


def _full_name(message: Message) -> str:
    descriptor: Any = message.DESCRIPTOR
    return descriptor.full_name


def packed(message: Message) -> AnyMessage:
    """A message in an `Any`, deterministically (`Any.Pack` does not promise the order of map entries)."""
    return AnyMessage(
        type_url=f"type.googleapis.com/{_full_name(message)}",
        value=message.SerializeToString(deterministic=True),
    )


def rendered(name: str, message: Message) -> Rendered:
    """A resource, under the hash of its bytes."""
    type_url = _TYPES[_full_name(message)]
    body = message.SerializeToString(deterministic=True)
    return Rendered(type_url=type_url, name=name, hash=resource_hash(type_url, body), body=body)
