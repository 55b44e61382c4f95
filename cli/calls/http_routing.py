"""Models how a sidecar handles an HTTP request: parsing, routing, header mutations, access rules.

As in `matching`, only configuration that the compiler renders is understood; any other raises
`UnknownConfigurationError`.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Literal

import msgspec
from envoy.config.common.mutation_rules.v3.mutation_rules_pb2 import HeaderMutation
from envoy.config.core.v3.base_pb2 import HeaderValueOption
from envoy.config.route.v3.route_components_pb2 import Route
from envoy.config.route.v3.route_pb2 import RouteConfiguration
from envoy.extensions.filters.http.header_mutation.v3.header_mutation_pb2 import HeaderMutationPerRoute
from envoy.extensions.filters.http.rbac.v3.rbac_pb2 import RBACPerRoute
from envoy.extensions.filters.network.http_connection_manager.v3.http_connection_manager_pb2 import (
    HttpConnectionManager,
)

from cli.calls.matching import (
    HttpRequest,
    UnknownConfigurationError,
    allowing,
    header_matches,
    path_matches,
    text_matches,
)
from cli.calls.request_head import HeadRules, Refusal, Slashes, read

_RBAC = "envoy.filters.http.rbac"
_MUTATION = "envoy.filters.http.header_mutation"
_CERTIFICATE = "x-forwarded-client-cert"
_Action = HttpConnectionManager.PathWithEscapedSlashesAction
_SLASHES: dict[int, Slashes] = {
    _Action.KEEP_UNCHANGED: "keep",
    _Action.REJECT_REQUEST: "reject",
    _Action.UNESCAPE_AND_FORWARD: "decode",
}
_WHY: dict[Refusal, str] = {
    "400": "a sidecar takes this for no valid request, or for a path that can be read in two ways",
    "404": "a sidecar passes on no request whose target is not a path",
    "431": "the headers of the request are too many or too large for a sidecar",
}


class RefusedRequest(msgspec.Struct, frozen=True):
    """A sidecar's answer in place of the application's."""

    status: Literal["400", "403", "404", "431"]
    why: str


class Peer(msgspec.Struct, frozen=True):
    """The other side of a mutual TLS connection."""

    identity: str
    address: str = ""
    """Empty if it is not known."""


def received(request: HttpRequest, manager: HttpConnectionManager, peer: Peer | None) -> HttpRequest | RefusedRequest:
    """A request as a connection manager has read it; `peer`: the other side, if the connection uses mutual TLS."""
    limits = HeadRules(
        normalize=manager.normalize_path.value,
        merge_slashes=manager.merge_slashes,
        slashes=_slashes(manager),
        headers=manager.common_http_protocol_options.max_headers_count.value,
        header_bytes=manager.max_request_headers_kb.value * 1024,
    )
    # A sidecar that forwards CONNECT sends the authority as the target.
    target = request.path or "".join(request.values(":authority"))
    head = read(request.method, target, request.headers, limits)
    if isinstance(head, str):
        return RefusedRequest(head, _WHY[head])
    headers = [(name, value) for name, value in request.headers if name.lower() not in {"host", _CERTIFICATE}]
    if head.authority is not None:
        headers.append(("host", head.authority))
    if peer is not None and _states_peer(manager):
        headers.append((_CERTIFICATE, f"By=;Hash=;URI={peer.identity}"))
    return HttpRequest(method=request.method, path=head.path, headers=tuple(headers))


def _slashes(manager: HttpConnectionManager) -> Slashes:
    if manager.path_with_escaped_slashes_action not in _SLASHES:
        raise UnknownConfigurationError(f"escaped slashes {manager.path_with_escaped_slashes_action}")
    return _SLASHES[manager.path_with_escaped_slashes_action]


def _states_peer(manager: HttpConnectionManager) -> bool:
    details = HttpConnectionManager.ForwardClientCertDetails
    if manager.forward_client_cert_details not in {details.SANITIZE, details.SANITIZE_SET}:
        raise UnknownConfigurationError("client certificates that callers state themselves")
    return manager.forward_client_cert_details == details.SANITIZE_SET


def taken(configuration: RouteConfiguration, request: HttpRequest) -> Route | None:
    """The route of a request; None if no route matches."""
    if not configuration.ignore_path_parameters_in_path_matching:
        raise UnknownConfigurationError("routes that match path parameters")
    for route in configuration.virtual_hosts[0].routes:
        kind = route.match.WhichOneof("path_specifier")
        if kind == "safe_regex":
            fits = path_matches(route.match.safe_regex, request)
        elif kind == "prefix" and route.match.prefix == "/":
            fits = bool(request.path)
        elif kind == "connect_matcher":
            fits = request.method == "CONNECT"
        else:
            raise UnknownConfigurationError(f"a route by {kind}")
        if fits and all(header_matches(matcher, request) for matcher in route.match.headers):
            return route
    return None


def decided(configuration: RouteConfiguration, request: HttpRequest, peer: Peer) -> str | RefusedRequest:
    """Name of the policy that allows a request, or the sidecar's answer in place of the application's."""
    route = taken(configuration, request)
    if route is None:
        return RefusedRequest("403", "no rules")
    changed = request
    if _MUTATION in route.typed_per_filter_config:
        mutation = HeaderMutationPerRoute.FromString(route.typed_per_filter_config[_MUTATION].value)
        changed = _changed(request, mutation.mutations.request_mutations, peer)
    for level in (route, configuration.virtual_hosts[0]):
        if _RBAC in level.typed_per_filter_config:
            rbac = RBACPerRoute.FromString(level.typed_per_filter_config[_RBAC].value)
            break
    else:
        return RefusedRequest("403", "no rules")
    # The filter is off for a route without rules of its own.
    rule = allowing(rbac.rbac.rules, peer.identity, changed) if rbac.HasField("rbac") else ""
    if rule is None:
        return RefusedRequest("403", f"no TrafficTarget lets {peer.identity} make this request")
    if route.HasField("direct_response"):
        if route.direct_response.status != 400:
            raise UnknownConfigurationError(f"an answer of {route.direct_response.status}")
        return RefusedRequest("400", _WHY["400"])
    return rule


def _changed(request: HttpRequest, mutations: Iterable[HeaderMutation], peer: Peer) -> HttpRequest:
    """The request after the sidecar's header mutations."""
    for mutation in mutations:
        match mutation.WhichOneof("action"):
            case "remove_on_match":
                matcher = mutation.remove_on_match.key_matcher
                headers = [item for item in request.headers if not text_matches(matcher, item[0].lower())]
            case "append":
                headers = _stated(request, mutation.append, peer)
            case other:
                raise UnknownConfigurationError(f"a change of headers by {other}")
        request = msgspec.structs.replace(request, headers=tuple(headers))
    return request


def _stated(request: HttpRequest, option: HeaderValueOption, peer: Peer) -> list[tuple[str, str]]:
    actions = HeaderValueOption.HeaderAppendAction
    name = option.header.key
    present = request.values(name)
    if option.append_action == actions.OVERWRITE_IF_EXISTS:
        if not present:
            return list(request.headers)
    elif option.append_action != actions.OVERWRITE_IF_EXISTS_OR_ADD:
        raise UnknownConfigurationError(f"header {name} with append action {option.append_action}")
    value = option.header.value
    if value == f"%REQ({name})%":
        value = present[0]
    elif value == "%DOWNSTREAM_DIRECT_REMOTE_ADDRESS_WITHOUT_PORT%":
        value = peer.address
    elif "%" in value:
        raise UnknownConfigurationError(f"header {name} with value {value}")
    return [*(item for item in request.headers if item[0].lower() != name), (name, value)]
