"""Decodes the requests of proxies into the few fields that matter. A request that cannot be decoded is refused."""

from __future__ import annotations

from collections.abc import Mapping

from envoy.service.discovery.v3.discovery_pb2 import DeltaDiscoveryRequest, DiscoveryRequest
from google.protobuf.message import DecodeError

from services.xds_edge.xds.name_budget import check_count, check_names
from services.xds_edge.xds.sotw import read_version_info
from services.xds_edge.xds.subscription import XdsRequest
from shared.errors import MeshlogError
from shared.records.snapshot import SDS, TYPE_URLS

MAX_ERROR_TEXT = 4096
"""Characters kept of the error message of a refused response."""
MAX_VERSION = 200
"""Characters of the version of one resource; those of an edge have fewer than 100. An edge never served a longer
one."""
MAX_VERSION_INFO = 4096
"""Characters of the version of all resources of a type."""
_FOREIGN_VERSION = "?"


class BadRequestError(MeshlogError):
    """The bytes are not a request of the protocol."""


def _versions(initial: Mapping[str, str]) -> dict[str, str]:
    """The versions that a proxy reports as held; an overlong one, which no edge sends, becomes a short one."""
    found = dict(initial)
    if max(map(len, found.values()), default=0) > MAX_VERSION:
        found = {name: one if len(one) <= MAX_VERSION else _FOREIGN_VERSION for name, one in found.items()}
    return found


_TYPES = {type_url.encode(): type_url for type_url in (*TYPE_URLS, SDS)}
_TYPE_URL, _RESPONSE_NONCE = b"\x12", b"\x32"
"""Tags of fields 2 and 6, both length-delimited (discovery.proto, `DeltaDiscoveryRequest`)."""


def _plain_ack(payload: bytes) -> XdsRequest | None:
    """A request that consists of a type and a nonce, as nearly all do; None if it is any other request."""
    if len(payload) < 2 or payload[:1] != _TYPE_URL:
        return None
    end = 2 + payload[1]
    type_url = _TYPES.get(payload[2:end])
    # A length of one byte is below 128: the bytes after it must be exactly the nonce.
    if type_url is None or payload[end : end + 1] != _RESPONSE_NONCE or len(payload) - end < 3:
        return None
    nonce = payload[end + 2 :]
    if payload[end + 1] != len(nonce) or len(nonce) > 127 or not nonce.isascii():
        return None
    return XdsRequest(type_url, nonce=nonce.decode())


def decode_delta(payload: bytes) -> tuple[XdsRequest, str]:
    """Decode a `DeltaDiscoveryRequest`; returns it and its node id, which is empty if it has none.

    Raises `BadRequestError` and `TooManyNamesError`.
    """
    if (ack := _plain_ack(payload)) is not None:
        return ack, ""
    try:
        message = DeltaDiscoveryRequest.FromString(payload)
    except DecodeError as error:
        raise BadRequestError("xds/malformed", "the request is not a DeltaDiscoveryRequest") from error
    check_count(
        len(message.resource_names_subscribe)
        + len(message.resource_names_unsubscribe)
        + len(message.resource_locators_subscribe)
        + len(message.resource_locators_unsubscribe)
        + len(message.initial_resource_versions)
    )
    subscribe = tuple(message.resource_names_subscribe)
    if message.resource_locators_subscribe:
        subscribe += tuple(locator.name for locator in message.resource_locators_subscribe)
    unsubscribe = tuple(message.resource_names_unsubscribe)
    if message.resource_locators_unsubscribe:
        unsubscribe += tuple(locator.name for locator in message.resource_locators_unsubscribe)
    initial = _versions(message.initial_resource_versions)
    for named in (subscribe, unsubscribe, initial):
        check_names(named)
    request = XdsRequest(
        type_url=message.type_url,
        subscribe=subscribe,
        unsubscribe=unsubscribe,
        initial_versions=initial,
        nonce=message.response_nonce,
        error=message.error_detail.message[:MAX_ERROR_TEXT] if message.HasField("error_detail") else None,
    )
    return request, message.node.id if message.HasField("node") else ""


def decode_sotw(payload: bytes) -> tuple[XdsRequest, str]:
    """Decode a `DiscoveryRequest`; returns it and its node id, which is empty if it has none.

    Raises `BadRequestError` and `TooManyNamesError`.
    """
    try:
        message = DiscoveryRequest.FromString(payload)
    except DecodeError as error:
        raise BadRequestError("xds/malformed", "the request is not a DiscoveryRequest") from error
    check_count(len(message.resource_names) + len(message.resource_locators))
    names = tuple(message.resource_names)
    if message.resource_locators:
        names += tuple(locator.name for locator in message.resource_locators)
    check_names(names)
    version = message.version_info if len(message.version_info) <= MAX_VERSION_INFO else ""
    request = XdsRequest(
        type_url=message.type_url,
        subscribe=names,
        # The version of secrets contains which certificate is held: it is adopted like that of an incremental client.
        initial_versions=read_version_info(version) if message.type_url == SDS else {},
        nonce=message.response_nonce,
        error=message.error_detail.message[:MAX_ERROR_TEXT] if message.HasField("error_detail") else None,
        version=version,
    )
    return request, message.node.id if message.HasField("node") else ""
