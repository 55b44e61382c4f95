"""Requests of proxies: bytes to the few fields that matter. What cannot be read is refused, never guessed at."""

from __future__ import annotations

from envoy.service.discovery.v3.discovery_pb2 import DeltaDiscoveryRequest, DiscoveryRequest
from google.protobuf.message import DecodeError

from services.xds_edge.subscriptions import Request
from services.xds_edge.world import read_version_info
from shared.errors import MeshlogError
from shared.snapshot import SDS

MAX_ERROR_TEXT = 4096
"""Characters kept of what a proxy says about a refused response."""


class BadRequestError(MeshlogError):
    """The bytes are no request of the protocol."""


def decode_delta(payload: bytes) -> tuple[Request, str]:
    """A `DeltaDiscoveryRequest`, and the id of the node that it claims to come from (empty: it claims none).

    Raises `BadRequestError`.
    """
    try:
        message = DeltaDiscoveryRequest.FromString(payload)
    except DecodeError as error:
        raise BadRequestError("xds/malformed", "the request is not a DeltaDiscoveryRequest") from error
    subscribe = tuple(message.resource_names_subscribe)
    if message.resource_locators_subscribe:
        subscribe += tuple(locator.name for locator in message.resource_locators_subscribe)
    unsubscribe = tuple(message.resource_names_unsubscribe)
    if message.resource_locators_unsubscribe:
        unsubscribe += tuple(locator.name for locator in message.resource_locators_unsubscribe)
    request = Request(
        type_url=message.type_url,
        subscribe=subscribe,
        unsubscribe=unsubscribe,
        initial_versions=dict(message.initial_resource_versions),
        nonce=message.response_nonce,
        error=message.error_detail.message[:MAX_ERROR_TEXT] if message.HasField("error_detail") else None,
    )
    return request, message.node.id if message.HasField("node") else ""


def decode_world(payload: bytes) -> tuple[Request, str]:
    """A `DiscoveryRequest`, and the id of the node that it claims to come from (empty: it claims none).

    Raises `BadRequestError`.
    """
    try:
        message = DiscoveryRequest.FromString(payload)
    except DecodeError as error:
        raise BadRequestError("xds/malformed", "the request is not a DiscoveryRequest") from error
    names = tuple(message.resource_names)
    if message.resource_locators:
        names += tuple(locator.name for locator in message.resource_locators)
    request = Request(
        type_url=message.type_url,
        subscribe=names,
        # Of secrets the version says which certificate is held: it is adopted as an incremental client's is.
        initial_versions=read_version_info(message.version_info) if message.type_url == SDS else {},
        nonce=message.response_nonce,
        error=message.error_detail.message[:MAX_ERROR_TEXT] if message.HasField("error_detail") else None,
        version=message.version_info,
    )
    return request, message.node.id if message.HasField("node") else ""
