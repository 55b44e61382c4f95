"""Client status discovery (CSDS): what each proxy of this edge holds.

The client needs the same token as for a stream. A client in the mesh's own namespace sees every proxy, any other client
those of its own namespace. Secrets are left out. The messages are built with the protobuf library, which is imported at
the first request, so that an edge without such requests does not load it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any, NamedTuple

from services.xds_edge.errors import Code, StreamRefusedError
from services.xds_edge.xds.request_decode import BadRequestError
from shared.identity.service_account_tokens import WorkloadToken

SERVICE = "envoy.service.status.v3.ClientStatusDiscoveryService"
FETCH = "FetchClientStatus"
STREAM = "StreamClientStatus"

MOST = 200
"""Proxies in one response."""
MOST_BYTES = 32 * 1024 * 1024
"""Bytes of resources in one response."""


class HeldType(NamedTuple):
    """What a proxy holds of one type."""

    type_url: str
    held: Mapping[str, str]
    """Name → hash."""
    refused: Mapping[str, str]
    message: str
    """The proxy's message about the refusal."""
    settled: bool
    """Whether the proxy is known to hold all of it."""


class HeldConfig(NamedTuple):
    """What a proxy holds."""

    namespace: str
    pod: str
    look: Callable[[], tuple[HeldType, ...]]
    """Called only for proxies in the response."""


def allowed(claims: WorkloadToken, mesh_namespace: str, namespace: str) -> bool:
    """Whether the bearer of a token may see the proxies of a namespace."""
    return claims.namespace in {mesh_namespace, namespace}


def answer(
    payload: bytes,
    claims: WorkloadToken,
    proxies: Iterable[HeldConfig],
    *,
    mesh_namespace: str,
    body: Callable[[str, str, str], bytes],
) -> bytes:
    """The `ClientStatusResponse` to a `ClientStatusRequest`; raises `BadRequestError` and `StreamRefusedError`."""
    from envoy.service.status.v3.csds_pb2 import ClientStatusRequest, ClientStatusResponse
    from google.protobuf.message import DecodeError

    try:
        request: Any = ClientStatusRequest.FromString(payload)
    except DecodeError as error:
        raise BadRequestError("csds/malformed", "the request is not a ClientStatusRequest") from error
    response: Any = ClientStatusResponse()
    left = MOST_BYTES
    for held in proxies:
        if not allowed(claims, mesh_namespace, held.namespace) or not _matches(request, f"{held.namespace}/{held.pod}"):
            continue
        if len(response.config) >= MOST:
            raise _too_much(f"more than {MOST} proxies match; name them by node_matchers")
        config = response.config.add()
        config.node.id = f"{held.namespace}/{held.pod}"
        for one in held.look():
            left -= _add(config, one, None if request.exclude_resource_contents else body)
            if left < 0:
                raise _too_much(
                    f"the resources take more than {MOST_BYTES} bytes; set exclude_resource_contents or node_matchers"
                )
    return response.SerializeToString()


def _too_much(sentence: str) -> StreamRefusedError:
    return StreamRefusedError(Code.RESOURCE_EXHAUSTED, "csds/too-many", sentence)


def _matches(request: Any, node: str) -> bool:
    """By `node_id.exact` and `node_id.prefix`; without a matcher every node matches."""
    for matcher in request.node_matchers:
        text = matcher.node_id
        if text.exact and text.exact == node:
            return True
        if text.prefix and node.startswith(text.prefix):
            return True
    return not request.node_matchers


def _add(config: Any, one: HeldType, body: Callable[[str, str, str], bytes] | None) -> int:
    """Add what a proxy holds of a type; returns the bytes of resources added. `body` is None to leave them out."""
    from envoy.admin.v3.config_dump_shared_pb2 import ClientResourceStatus
    from envoy.service.status.v3.csds_pb2 import ConfigStatus

    size = 0
    for name, digest in sorted({**one.held, **one.refused}.items()):
        entry = config.generic_xds_configs.add()
        entry.type_url, entry.name, entry.version_info = one.type_url, name, digest
        if name in one.refused:
            entry.client_status, entry.config_status = ClientResourceStatus.NACKED, ConfigStatus.ERROR
            entry.error_state.details = one.message
            entry.error_state.version_info = digest
        elif not digest or not one.settled:
            entry.client_status, entry.config_status = ClientResourceStatus.REQUESTED, ConfigStatus.STALE
        else:
            entry.client_status, entry.config_status = ClientResourceStatus.ACKED, ConfigStatus.SYNCED
        if body is None or not digest:
            continue
        try:
            entry.xds_config.value = content = body(one.type_url, name, digest)
        except LookupError:
            # The snapshot has moved on; the version above still identifies the resource.
            continue
        entry.xds_config.type_url = one.type_url
        size += len(content)
    return size
