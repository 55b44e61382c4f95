"""What proxies are told, for what users wrote: claims on the rendered messages."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeVar

from envoy.config.cluster.v3.cluster_pb2 import Cluster
from envoy.config.endpoint.v3.endpoint_pb2 import ClusterLoadAssignment
from envoy.config.listener.v3.listener_components_pb2 import FilterChain
from envoy.config.listener.v3.listener_pb2 import Listener
from envoy.config.rbac.v3.rbac_pb2 import RBAC
from envoy.config.route.v3.route_components_pb2 import Route
from envoy.config.route.v3.route_pb2 import RouteConfiguration
from envoy.extensions.filters.http.rbac.v3.rbac_pb2 import RBACPerRoute
from envoy.extensions.filters.network.tcp_proxy.v3.tcp_proxy_pb2 import TcpProxy
from envoy.extensions.transport_sockets.tls.v3.tls_pb2 import DownstreamTlsContext, UpstreamTlsContext

from services.compiler import envoy_names
from services.compiler.core.offline import compile_events
from services.injector.core import denial_response
from shared.projected_objects import ServicePort
from shared.records.events import Event
from shared.records.snapshot import CDS, EDS, LDS, RDS, Snapshot
from tests.unit.compiler import objects

M = TypeVar("M", Cluster, ClusterLoadAssignment, Listener, RouteConfiguration)
ROUTES = "outbound|store/store|80"
TYPES = {Cluster: CDS, ClusterLoadAssignment: EDS, Listener: LDS, RouteConfiguration: RDS}


class Told:
    """What one proxy is told."""

    def __init__(self, snapshot: Snapshot, pod: str) -> None:
        self.snapshot = snapshot
        self.view = snapshot.views[snapshot.proxies[f"{objects.CLUSTER}/{pod}"].workload_class]

    def names(self, message: type[M]) -> set[str]:
        return set(self.view.get(TYPES[message], {}))

    def get(self, message: type[M], name: str) -> M:
        type_url = TYPES[message]
        return message.FromString(self.snapshot.resources[type_url, name, self.view[type_url][name]].body)

    def chains(self, listener: str) -> dict[str, FilterChain]:
        if listener not in self.view[LDS]:
            return {}  # nothing may be called: no listener, so that callers are refused
        return {chain.name: chain for chain in self.get(Listener, listener).filter_chains}

    def calls(self) -> set[str]:
        return {name for name in self.chains("outbound") if name.startswith("outbound|")}

    def rules(self, port: int) -> RBAC:
        host = self.get(RouteConfiguration, f"inbound|{port}").virtual_hosts[0]
        found = RBACPerRoute()
        assert host.typed_per_filter_config["envoy.filters.http.rbac"].Unpack(found)
        return found.rbac.rules

    def endpoints(self, cluster: str) -> list[str]:
        name = self.get(Cluster, cluster).eds_cluster_config.service_name
        assignment = self.get(ClusterLoadAssignment, name)
        endpoints = [item.endpoint for group in assignment.endpoints for item in group.lb_endpoints]
        return [endpoint.address.socket_address.address for endpoint in endpoints]

    def every_route(self, name: str) -> Sequence[Route]:
        return self.get(RouteConfiguration, name).virtual_hosts[0].routes

    def routes(self, name: str) -> Sequence[Route]:
        """Routes of requests for paths."""
        return [one for one in self.every_route(name) if not one.match.HasField("connect_matcher")]

    def tunnels(self, name: str) -> Sequence[Route]:
        """Routes of CONNECT."""
        return [one for one in self.every_route(name) if one.match.HasField("connect_matcher")]


def told(pod: str, *more: Event, mesh: Sequence[Event] | None = None) -> Told:
    return Told(compile_events([*(objects.bookstore() if mesh is None else mesh), *more]), pod)


def without_policy() -> list[Event]:
    kinds = {"TrafficTarget", "TrafficSplit", "HTTPRouteGroup", "TCPRoute"}
    return [event for event in objects.bookstore() if event.kind not in kinds]


def tcp_clusters(chain: FilterChain) -> dict[str, int]:
    proxy = TcpProxy()
    assert chain.filters[-1].typed_config.Unpack(proxy)
    return {part.name: part.weight for part in proxy.weighted_clusters.clusters} or {proxy.cluster: 1}


def test_without_policy_every_connection_is_denied() -> None:
    """The listener takes what the application sends, so that a client of HTTP is answered."""
    found = told("buy/buyer-0", mesh=without_policy())
    assert found.calls() == set()
    assert tcp_clusters(found.get(Listener, "outbound").default_filter_chain) == {"denied": 1}
    assert RDS not in found.view
    assert not told("store/v1-0", mesh=without_policy()).rules(8080).policies


def test_a_tunnel_goes_where_a_request_for_any_path_goes() -> None:
    """A match of a split by path, or by other methods, means no tunnel."""

    def clusters(split: Event, *groups: Event) -> list[list[str]]:
        found = told("buy/buyer-0", split, *groups).tunnels(ROUTES)
        return [
            [one.name for one in route.route.weighted_clusters.clusters] or [route.route.cluster] for route in found
        ]

    both = {"store-v1": 1, "store-v2": 1}
    leaves = [f"outbound|store/{name}|80" for name in both]
    own = ["outbound|store/store|80"]
    whole = objects.split("store", "canary", root="store", backends=both)
    assert clusters(whole) == [leaves]
    by = objects.split("store", "canary", root="store", backends=both, matches=["some"])
    for match, more in (
        ({"headers": {"x": "y"}}, [leaves]),
        ({"methods": ["GET", "CONNECT"]}, [leaves]),
        ({"methods": ["GET"]}, []),
        ({"pathRegex": "/.*"}, []),
    ):
        assert clusters(by, objects.route_group("store", "some", {"name": "one", **match})) == [*more, own], match


def test_without_policy_but_with_egress_a_client_may_leave_the_mesh() -> None:
    found = told("buy/buyer-0", mesh=[*without_policy(), objects.mesh_config(egress=True)])
    assert tcp_clusters(found.get(Listener, "outbound").default_filter_chain) == {"passthrough": 1}


def test_a_peer_that_vanishes_is_noticed_by_every_sidecar_that_calls_it() -> None:
    """A keep-alive of the application ends at its own sidecar, so the sidecar has to probe the peer itself."""
    found = told("buy/buyer-0", objects.mesh_config(egress=True))
    probed = {name for name in found.names(Cluster) if found.get(Cluster, name).HasField("upstream_connection_options")}
    assert probed == {name for name in found.names(Cluster) if name.startswith("outbound|")} | {"passthrough"}
    options = found.get(Cluster, "passthrough").upstream_connection_options.tcp_keepalive
    assert (options.keepalive_time.value, options.keepalive_interval.value, options.keepalive_probes.value) == (
        20,
        5,
        3,
    )


def test_who_may_call_something_is_denied_elsewhere() -> None:
    assert tcp_clusters(told("buy/buyer-0").get(Listener, "outbound").default_filter_chain) == {"denied": 1}


def test_the_injector_and_the_compiler_mean_one_cluster() -> None:
    """The compiler leads denied calls to a cluster that only the bootstrap has."""
    assert denial_response.denied_cluster()["name"] == envoy_names.DENIED


def test_an_account_of_a_namespace_that_has_left_calls_nobody_though_its_certificate_is_good() -> None:
    left = told("store/v1-0", mesh=[*objects.bookstore(), objects.namespace("buy", mesh=None)])
    assert not left.rules(8080).policies
    assert set(told("store/v1-0").rules(8080).policies) == {"store/buyer-v1", "store/thief-v1"}


def test_a_client_is_told_only_of_what_it_may_call() -> None:
    assert told("buy/buyer-0").calls() == {f"outbound|store/{name}|80" for name in ("store", "store-v1", "store-v2")}
    assert told("buy/thief-0").calls() == {f"outbound|store/{name}|80" for name in ("store", "store-v1")}
    assert told("store/v1-0").calls() == {"outbound|store/db|5432"}


def test_the_server_decides_who_may_request_what() -> None:
    rules = told("store/v1-0").rules(8080)
    assert set(rules.policies) == {"store/buyer-v1", "store/thief-v1"}
    thief = rules.policies["store/thief-v1"]
    assert [principal.authenticated.principal_name.exact for principal in thief.principals] == [
        "spiffe://cluster.local/ns/buy/sa/thief"
    ]
    (browse,) = thief.permissions
    path, method = browse.and_rules.rules
    assert path.url_path.path.safe_regex.regex == "(?:/books).*"
    assert (method.header.name, method.header.string_match.exact) == (":method", "GET")
    assert len(rules.policies["store/buyer-v1"].permissions) == 2


def test_a_split_spreads_calls_to_the_root_by_weight() -> None:
    routes = told("buy/buyer-0").routes("outbound|store/store|80")
    shares = {part.name: part.weight.value for part in routes[0].route.weighted_clusters.clusters}
    assert shares == {"outbound|store/store-v1|80": 90, "outbound|store/store-v2|80": 10}


def test_backends_of_weight_0_get_nothing_but_stay_ready() -> None:
    split = objects.split("store", "canary", root="store", backends={"store-v1": 1, "store-v2": 0})
    found = told("buy/buyer-0", split)
    route = found.routes("outbound|store/store|80")[0].route
    assert route.cluster == "outbound|store/store-v1|80"
    assert "outbound|store/store-v2|80" in found.names(Cluster)


def test_a_split_of_no_weight_lets_nothing_pass() -> None:
    split = objects.split("store", "canary", root="store", backends={"store-v1": 0, "store-v2": 0})
    found = told("buy/buyer-0", split)
    assert found.routes("outbound|store/store|80")[0].direct_response.status == 503
    assert [item.code for item in found.snapshot.quarantine] == ["smi/split-weightless"]


def test_the_root_as_its_own_backend_means_its_own_endpoints() -> None:
    split = objects.split("store", "canary", root="store", backends={"store": 1})
    found = told("buy/buyer-0", split)
    route = found.routes("outbound|store/store|80")[0].route
    assert route.cluster == "outbound|store/store|80"
    assert found.endpoints("outbound|store/store|80") == ["10.244.2.1", "10.244.2.2"]


def test_of_two_splits_of_one_root_the_oldest_wins_and_the_other_is_named() -> None:
    later = objects.split("store", "a-later", root="store", backends={"store-v2": 1}, created="2026-02-01T00:00:00Z")
    found = told("buy/buyer-0", later)
    assert (
        len(
            found.get(RouteConfiguration, "outbound|store/store|80")
            .virtual_hosts[0]
            .routes[0]
            .route.weighted_clusters.clusters
        )
        == 2
    )
    assert [(item.key.name, item.code) for item in found.snapshot.quarantine] == [("a-later", "smi/split-conflict")]


def test_a_split_by_requests_sends_the_rest_to_the_root() -> None:
    split = objects.split("store", "canary", root="store", backends={"store-v2": 1}, matches=["routes"])
    routes = told("buy/buyer-0", split).routes("outbound|store/store|80")
    assert [route.route.cluster for route in routes] == [
        "outbound|store/store-v2|80",
        "outbound|store/store-v2|80",
        "outbound|store/store|80",
    ]


def test_a_bad_split_leaves_the_last_good_one_in_force_and_a_bad_target_grants_nothing() -> None:
    bad_split = objects.split("store", "canary", root="store", backends={"store-v1": -1})
    bad_target = objects.target(
        "store", "thief-v1", destination="store-v1", sources=[], rules=[("HTTPRouteGroup", "routes", [])]
    )
    snapshot = compile_events([*objects.bookstore(), bad_split, bad_target])
    assert {item.code for item in snapshot.quarantine} == {"smi/split-weight", "smi/target-sources"}
    routes = Told(snapshot, "buy/buyer-0").routes("outbound|store/store|80")
    assert len(routes[0].route.weighted_clusters.clusters) == 2
    assert set(Told(snapshot, "store/v1-0").rules(8080).policies) == {"store/buyer-v1"}


def test_a_target_outside_the_namespace_of_its_destination_has_no_effect() -> None:
    spec = {
        "destination": {"kind": "ServiceAccount", "name": "db", "namespace": "store"},
        "sources": [{"kind": "ServiceAccount", "name": "thief", "namespace": "buy"}],
        "rules": [{"kind": "TCPRoute", "name": "db"}],
    }
    foreign = objects.policy("TrafficTarget", "buy", "grab", spec, api_version=objects.ACCESS, created="")
    found = told("buy/thief-0", foreign)
    assert "outbound|store/db|5432" not in found.calls()
    assert [item.code for item in found.snapshot.quarantine] == ["smi/target-namespace"]


def test_http_rules_grant_nothing_on_a_port_that_is_bytes() -> None:
    http_only = objects.target(
        "store",
        "stores-db",
        destination="db",
        sources=[("store", "store-v1")],
        rules=[("HTTPRouteGroup", "routes", [])],
    )
    context = DownstreamTlsContext()
    told("store/db-0", http_only).chains("inbound")["inbound|5432"].transport_socket.typed_config.Unpack(context)
    names = context.common_tls_context.combined_validation_context.default_validation_context
    assert [item.matcher.exact for item in names.match_typed_subject_alt_names] == ["spiffe://cluster.local/nobody"]


def test_only_the_callers_of_a_tcp_port_pass_its_handshake() -> None:
    """A server may speak first, before any filter decides."""
    context = DownstreamTlsContext()
    told("store/db-0").chains("inbound")["inbound|5432"].transport_socket.typed_config.Unpack(context)
    names = context.common_tls_context.combined_validation_context.default_validation_context
    assert [item.matcher.exact for item in names.match_typed_subject_alt_names] == [
        "spiffe://cluster.local/ns/store/sa/store-v1",
        "spiffe://cluster.local/ns/store/sa/store-v2",
    ]
    assert context.require_client_certificate.value


def test_a_tcp_rule_limits_the_ports_of_http_rules_in_the_same_target() -> None:
    both = objects.target(
        "store",
        "thief-v1",
        destination="store-v1",
        sources=[("buy", "thief")],
        rules=[("HTTPRouteGroup", "routes", ["browse"]), ("TCPRoute", "db", [])],
    )
    assert "store/thief-v1" not in told("store/v1-0", both).rules(8080).policies


def test_a_tcp_rule_alone_lets_http_through() -> None:
    tcp = objects.target(
        "store", "thief-v1", destination="store-v1", sources=[("buy", "thief")], rules=[("TCPRoute", "all", [])]
    )
    rules = told("store/v1-0", objects.tcp_route("store", "all"), tcp).rules(8080)
    assert rules.policies["store/thief-v1"].permissions[0].any


def test_a_rule_that_names_what_is_not_there_grants_nothing_and_says_so() -> None:
    lost = objects.target(
        "store",
        "thief-v1",
        destination="store-v1",
        sources=[("buy", "thief")],
        rules=[("HTTPRouteGroup", "gone", []), ("HTTPRouteGroup", "routes", ["sell"])],
    )
    found = told("store/v1-0", lost)
    assert set(found.rules(8080).policies) == {"store/buyer-v1"}
    assert [item.code for item in found.snapshot.quarantine] == ["smi/match-missing", "smi/route-missing"]
    assert told("buy/thief-0", lost).calls() == set()


def test_endpoints_are_ready_pods_with_sidecars() -> None:
    more = [
        objects.pod("store", "v1-1", account="store-v1", ip="10.244.2.4", labels={"app": "store", "version": "v1"}),
        objects.pod("store", "v1-2", account="store-v1", ip="10.244.2.5", labels={"app": "store"}, sidecar=False),
        objects.slices(
            "store",
            "store-v1",
            {"v1-0": "10.244.2.1", "v1-1": "10.244.2.4", "v1-2": "10.244.2.5"},
            unready=["v1-0"],
        ),
    ]
    assert told("buy/buyer-0", *more).endpoints("outbound|store/store-v1|80") == ["10.244.2.4"]


def test_a_client_expects_exactly_the_identities_behind_the_service() -> None:
    context = UpstreamTlsContext()
    told("buy/buyer-0").get(Cluster, "outbound|store/store|80").transport_socket.typed_config.Unpack(context)
    names = context.common_tls_context.combined_validation_context.default_validation_context
    assert [item.matcher.exact for item in names.match_typed_subject_alt_names] == [
        "spiffe://cluster.local/ns/store/sa/store-v1",
        "spiffe://cluster.local/ns/store/sa/store-v2",
    ]
    assert context.sni == "store.store.svc.cluster.local"


def test_a_cluster_that_changes_asks_for_its_endpoints_under_a_new_name() -> None:
    """Envoy would wait for endpoints that it holds already."""
    before = told("buy/buyer-0").get(Cluster, "outbound|store/store-v1|80")
    more = [
        objects.pod("store", "v1-1", account="another", ip="10.244.2.4"),
        objects.slices("store", "store-v1", {"v1-0": "10.244.2.1", "v1-1": "10.244.2.4"}),
    ]
    after = told("buy/buyer-0", *more).get(Cluster, "outbound|store/store-v1|80")
    assert before.name == after.name
    assert before.eds_cluster_config.service_name != after.eds_cluster_config.service_name


def test_a_replica_changes_endpoints_and_nothing_else() -> None:
    before = compile_events(objects.bookstore())
    labels = {"app": "store", "version": "v1"}
    after = compile_events(
        [
            *objects.bookstore(),
            objects.pod("store", "v1-1", account="store-v1", ip="10.244.2.4", labels=labels),
            objects.slices("store", "store-v1", {"v1-0": "10.244.2.1", "v1-1": "10.244.2.4"}),
        ]
    )
    assert set(after.views) == set(before.views)
    changed = set(after.resources) - set(before.resources)
    assert {type_url for type_url, _, _ in changed} == {EDS}
    assert len(changed) == 1


def test_a_policy_change_of_an_http_port_touches_no_listener_of_the_server() -> None:
    before = told("store/v1-0")
    after = told("store/v1-0", objects.deleted("TrafficTarget", "store", "thief-v1"))
    assert before.view[LDS] == after.view[LDS]
    assert before.view[RDS] != after.view[RDS]


def test_a_pod_with_no_open_port_has_an_inbound_listener_too() -> None:
    assert set(told("buy/buyer-0").chains("inbound")) == {"never"}


def test_named_ports_and_remapped_ports_meet() -> None:
    mesh = [
        *objects.bookstore(),
        objects.pod("store", "db-0", account="db", ip="10.244.2.3", labels={"app": "db"}, named_ports={"sql": 15432}),
        objects.service(
            "store", "db", ip="10.96.1.4", ports=[ServicePort(port=5432, name="tcp-db", target_port="sql")]
        ),
        objects.slices("store", "db", {"db-0": "10.244.2.3"}, ports={"tcp-db": 15432}),
        objects.tcp_route("store", "db", 15432),
    ]
    assert "inbound|15432" in told("store/db-0", mesh=mesh).chains("inbound")
    client = told("store/v1-0", mesh=mesh)
    assert client.chains("outbound")["outbound|store/db|5432"].filter_chain_match.destination_port.value == 5432
    name = client.get(Cluster, "outbound|store/db|5432").eds_cluster_config.service_name
    endpoint = client.get(ClusterLoadAssignment, name).endpoints[0].lb_endpoints[0].endpoint
    assert endpoint.address.socket_address.port_value == 15432


def test_a_headless_service_leads_to_the_pod_that_the_client_addressed() -> None:
    nodes = [
        objects.service("store", "nodes", ip="None", selector={"version": "v1"}, ports=[ServicePort(port=8080)]),
        objects.slices("store", "nodes", {"v1-0": "10.244.2.1"}),
    ]
    found = told("buy/buyer-0", *nodes)
    chain = found.chains("outbound")["outbound|store/nodes|8080"]
    assert [prefix.address_prefix for prefix in chain.filter_chain_match.prefix_ranges] == ["10.244.2.1"]
    assert found.get(Cluster, "direct|store/nodes|8080").type == Cluster.DiscoveryType.ORIGINAL_DST


def test_of_a_headless_root_that_is_its_own_backend_the_pod_that_was_addressed_has_the_roots_share() -> None:
    """Whoever asks for one member of a StatefulSet by name must not be answered by another."""
    mesh = [
        objects.service("store", "nodes", ip="None", selector={"version": "v1"}, ports=[ServicePort(port=80)]),
        objects.slices("store", "nodes", {"v1-0": "10.244.2.1"}, ports={"": 80}),
        objects.split("store", "some", root="nodes", backends={"nodes": 3, "store-v2": 1}),
    ]
    (route,) = told("buy/buyer-0", *mesh).routes("outbound|store/nodes|80")
    found = {part.name: part.weight.value for part in route.route.weighted_clusters.clusters}
    assert found == {"direct|store/nodes|80": 3, "outbound|store/store-v2|80": 1}


def test_permissive_mode_opens_every_service_with_sidecars_to_every_member() -> None:
    found = told("buy/thief-0", objects.mesh_config(permissive=True), mesh=without_policy())
    assert found.calls() == {
        *(f"outbound|store/{name}|80" for name in ("store", "store-v1", "store-v2")),
        "outbound|store/db|5432",
    }
    rules = told("store/v1-0", objects.mesh_config(permissive=True), mesh=without_policy()).rules(8080)
    assert rules.policies["permissive"].principals[0].HasField("authenticated")


def test_egress_passes_everything_else_through() -> None:
    found = told("buy/thief-0", objects.mesh_config(egress=True))
    assert tcp_clusters(found.get(Listener, "outbound").default_filter_chain) == {"passthrough": 1}
    assert tcp_clusters(found.chains("outbound")["own-port"]) == {"blackhole": 1}


def test_a_namespace_that_leaves_the_mesh_takes_its_proxies_and_services_along() -> None:
    left = compile_events([*objects.bookstore(), objects.namespace("store", mesh=None)])
    assert {proxy.namespace for proxy in left.proxies.values()} == {"buy"}
    assert left.mesh_namespaces == ["buy"]
    assert Told(left, "buy/buyer-0").calls() == set()


def test_causes_name_the_objects_that_the_bytes_were_made_from() -> None:
    snapshot = compile_events(objects.bookstore())
    (found,) = [
        item for item in snapshot.resources.values() if item.name == "outbound|store/store|80" and item.type_url == RDS
    ]
    assert {str(cause.key) for cause in found.causes} == {
        "Namespace store",
        "Service store/store",
        "Service store/store-v1",
        "Service store/store-v2",
        "TrafficSplit store/canary",
    }
