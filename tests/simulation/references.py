"""What a resource refers to, read from its bytes: clusters and routes by name, and the endpoints of a cluster."""

from __future__ import annotations

from collections.abc import Iterator
from functools import cache
from typing import Any

from google.protobuf import symbol_database
from google.protobuf.any_pb2 import Any as AnyMessage
from google.protobuf.message import Message

from shared.records.snapshot import CDS, EDS, RDS

Reference = tuple[str, str]
"""Type URL and name."""


@cache
def references(type_url: str, name: str, body: bytes) -> frozenset[Reference]:
    """The resources by name without which this one is of no use."""
    message = _message(type_url, body)
    if type_url == CDS:
        config: Any = message
        if not config.HasField("eds_cluster_config"):
            return frozenset()
        return frozenset({(EDS, config.eds_cluster_config.service_name or name)})
    return frozenset(_walk(message))


def _message(type_url: str, body: bytes) -> Message:
    # The default symbol database has every generated class that was imported, so all that a compiler renders.
    found: Any = symbol_database.Default()
    message: Message = found.GetSymbol(type_url.rpartition("/")[2])()
    message.ParseFromString(body)
    return message


def _walk(message: Message) -> Iterator[Reference]:
    if isinstance(message, AnyMessage):
        yield from _walk(_message(message.type_url, message.value))
        return
    descriptor: Any = message.DESCRIPTOR
    kind: str = descriptor.full_name
    for field, value in message.ListFields():
        if field.name == "cluster" and isinstance(value, str):
            yield CDS, value
        elif field.name == "route_config_name":
            yield RDS, str(value)
        elif field.name == "name" and kind.endswith(".WeightedCluster.ClusterWeight"):
            yield CDS, str(value)
        elif field.message_type is not None:
            entries: Any = value
            if field.message_type.GetOptions().map_entry:
                entries = [entry for entry in value.values() if isinstance(entry, Message)]
            elif isinstance(value, Message):
                entries = [value]
            for entry in entries:
                yield from _walk(entry)
