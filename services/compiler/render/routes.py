"""Route configurations: where requests to a service go, and which callers may make requests to the application.

One virtual host for every host name: the destination address has chosen the service already, so a client may write
whatever `Host` it likes.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence

from envoy.config.rbac.v3.rbac_pb2 import RBAC
from envoy.config.route.v3.route_components_pb2 import (
    DirectResponseAction,
    RetryPolicy,
    Route,
    RouteAction,
    RouteMatch,
    VirtualHost,
    WeightedCluster,
)
from envoy.config.route.v3.route_pb2 import RouteConfiguration
from envoy.extensions.filters.http.rbac.v3 import rbac_pb2 as http_rbac
from envoy.extensions.retry.host.previous_hosts.v3.previous_hosts_pb2 import PreviousHostsPredicate
from google.protobuf.duration_pb2 import Duration
from google.protobuf.wrappers_pb2 import BoolValue, UInt32Value

from services.compiler import envoy_names
from services.compiler.ir import Route as RouteOf
from services.compiler.render import request_handling
from services.compiler.render.matchers import header, method_headers, path_expression
from services.compiler.render.packing import packed
from shared.policy.model import HttpMatch

HTTP_RBAC = "envoy.filters.http.rbac"


def _retries() -> RetryPolicy:
    # Only failures before the request left: repeating those is safe for every method. An endpoint that has just gone
    # then costs its callers a connection attempt, not a failed request.
    return RetryPolicy(
        retry_on="connect-failure,refused-stream,reset-before-request",
        num_retries=UInt32Value(value=3),
        retry_host_predicate=[
            RetryPolicy.RetryHostPredicate(
                name="envoy.retry_host_predicates.previous_hosts", typed_config=packed(PreviousHostsPredicate())
            )
        ],
        host_selection_retry_max_attempts=3,
    )


def _action(*, sticky: bool, cluster: str = "", weighted: WeightedCluster | None = None) -> RouteAction:
    action = RouteAction(timeout=Duration(), retry_policy=_retries())
    if sticky:
        client = RouteAction.HashPolicy.ConnectionProperties(source_ip=True)
        action.hash_policy.append(RouteAction.HashPolicy(connection_properties=client))
    if weighted is not None:
        action.weighted_clusters.CopyFrom(weighted)
    else:
        action.cluster = cluster
    return action


def _everything() -> RouteMatch:
    return RouteMatch(prefix="/")


def _tunnels() -> RouteMatch:
    """Requests by CONNECT, which have no path: a match by path takes none of them."""
    return RouteMatch(connect_matcher=RouteMatch.ConnectMatcher())


def _requests(match: HttpMatch) -> RouteMatch:
    found = RouteMatch()
    if match.path:
        found.safe_regex.CopyFrom(path_expression(match.path))
    else:
        found.prefix = "/"
    found.headers.extend(method_headers(match))
    found.headers.extend(header(name, pattern) for name, pattern in match.headers)
    return found


def _requested_tunnels(match: HttpMatch) -> list[RouteMatch]:
    """The requests by CONNECT that a match means: none if it asks for a path or for other methods."""
    if match.path or (match.methods and "CONNECT" not in match.methods):
        return []
    found = _tunnels()
    found.headers.extend(header(name, pattern) for name, pattern in match.headers)
    return [found]


def shares(route: RouteOf, own_cluster: str) -> list[tuple[str, int]]:
    """Cluster and weight of each backend that gets a share; none if nothing passes.

    The root as its own backend is what it is without the split: of a headless service, the pod that was addressed.
    """
    if route.split is None:
        return [(own_cluster, 1)]
    return [
        (
            own_cluster if share.service == route.service else envoy_names.outbound(share.service, route.port),
            share.weight,
        )
        for share in route.split.shares
        if share.weight
    ]


def _spread(route: RouteOf, own_cluster: str, match: RouteMatch) -> Route:
    found = shares(route, own_cluster)
    if not found:
        return Route(match=match, direct_response=DirectResponseAction(status=503))
    if len(found) == 1:
        return Route(match=match, route=_action(sticky=route.sticky, cluster=found[0][0]))
    weighted = WeightedCluster(
        clusters=[WeightedCluster.ClusterWeight(name=name, weight=UInt32Value(value=weight)) for name, weight in found]
    )
    return Route(match=match, route=_action(sticky=route.sticky, weighted=weighted))


def _one_host(name: str, routes: list[Route]) -> RouteConfiguration:
    host = VirtualHost(name=name, domains=["*"], routes=routes)
    return RouteConfiguration(
        name=name,
        virtual_hosts=[host],
        # A cluster that has just gone is a failed request at most, never a refused update.
        validate_clusters=BoolValue(value=False),
        # Servlet containers look a resource up without its `;` parameters. So do routes, and the access rules of them.
        ignore_path_parameters_in_path_matching=True,
    )


def outbound(route: RouteOf, own_cluster: str, *, tunnels: bool = True) -> RouteConfiguration:
    """Requests to one port of a service; `own_cluster` leads to its own endpoints.

    `tunnels`: also those by CONNECT; gRPC's own clients make none, and refuse a configuration that speaks of them.
    """
    everything = [_everything(), _tunnels()] if tunnels else [_everything()]
    own = [Route(match=match, route=_action(sticky=route.sticky, cluster=own_cluster)) for match in everything]
    split = route.split
    if split is None:
        routes = own
    elif split.matches is None:
        routes = [_spread(route, own_cluster, match) for match in everything]
    else:
        wanted = [
            one
            for match in split.matches
            for one in (_requests(match), *(_requested_tunnels(match) if tunnels else ()))
        ]
        routes = [*(_spread(route, own_cluster, match) for match in wanted), *own]
    return _one_host(envoy_names.outbound(route.service, route.port), routes)


def inbound(port: int, rules: RBAC, *, named: Collection[str], forwarders: Sequence[str]) -> RouteConfiguration:
    """Requests to the application: those that the rules let through.

    `named`: headers that the rules name. `forwarders`: identities whose statements about a request's way are believed.
    """
    action = RouteAction(cluster=envoy_names.local(port), timeout=Duration())
    refused = Route(match=_everything(), direct_response=DirectResponseAction(status=400))
    refused.match.headers.append(request_handling.ambiguous())
    # No rules here: what is refused for its path needs no second verdict, which would answer 403.
    refused.typed_per_filter_config[HTTP_RBAC].CopyFrom(packed(http_rbac.RBACPerRoute()))
    routes = [refused]
    for believed in (True, False) if forwarders else (False,):
        for match in (_everything(), _tunnels()):
            passed = Route(match=match, route=action)
            if believed:
                passed.match.headers.append(request_handling.forwarded_by(forwarders))
            read = request_handling.headers_read(named, believed=believed)
            if read is not None:
                passed.typed_per_filter_config[request_handling.MUTATION].CopyFrom(read)
            routes.append(passed)
    found = _one_host(envoy_names.inbound(port), routes)
    decided = packed(http_rbac.RBACPerRoute(rbac=http_rbac.RBAC(rules=rules)))
    found.virtual_hosts[0].typed_per_filter_config[HTTP_RBAC].CopyFrom(decided)
    return found
