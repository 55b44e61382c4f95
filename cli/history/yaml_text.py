"""Formats Envoy's protobufs and projected objects as YAML, and the differences between two of them."""

from __future__ import annotations

import difflib
import importlib
from typing import Any

import msgspec
import yaml

from cli.history.timeline import LoggedEvent
from shared.errors import MeshlogError
from shared.io.decoding import UndecodableError, decode
from shared.records.snapshot import CDS, EDS, LDS, RDS, Resource

_MESSAGES = {
    CDS: ("envoy.config.cluster.v3.cluster_pb2", "Cluster"),
    EDS: ("envoy.config.endpoint.v3.endpoint_pb2", "ClusterLoadAssignment"),
    LDS: ("envoy.config.listener.v3.listener_pb2", "Listener"),
    RDS: ("envoy.config.route.v3.route_pb2", "RouteConfiguration"),
}


def decoded(resource: Resource) -> dict[str, Any]:
    """Return a resource as Envoy's JSON."""
    from google.protobuf.json_format import MessageToDict

    # A message inside `Any` needs a registered type: the renderers import the types that they use.
    importlib.import_module("services.compiler.render.clusters")
    importlib.import_module("services.compiler.render.listeners")
    importlib.import_module("services.compiler.render.routes")
    module, name = _MESSAGES[resource.type_url]
    message = getattr(importlib.import_module(module), name).FromString(resource.body)
    # Convert by way of JSON: a message inside `Any` is an ordered dictionary, which YAML does not write.
    return msgspec.json.decode(msgspec.json.encode(MessageToDict(message, preserving_proto_field_name=True)))


def yaml_of(value: Any) -> str:
    """Return a value as YAML for output."""
    return yaml.dump(value, Dumper=yaml.CSafeDumper, sort_keys=False, default_flow_style=False, width=110)


def object_of(happened: LoggedEvent | None) -> dict[str, Any]:
    """Return the object of an event; empty if it is deleted, or there is no event."""
    if happened is None or happened.event.object is None:
        return {}
    event = happened.event
    try:
        body = decode(dict[str, Any], happened.event.object)
    except UndecodableError as error:
        sentence = f"the event at {happened.sequence} holds an object that cannot be read ({error})"
        raise MeshlogError("history/object", sentence, about=str(event.key)) from error
    return {"apiVersion": event.api_version, "kind": event.kind, **body}


def difference(before: Any, after: Any, *, names: tuple[str, str]) -> str:
    """Return a unified diff of two values as YAML; empty if they are equal."""
    old = yaml_of(before).splitlines() if before else []
    new = yaml_of(after).splitlines() if after else []
    return "\n".join(difflib.unified_diff(old, new, *names, lineterm="", n=2))
