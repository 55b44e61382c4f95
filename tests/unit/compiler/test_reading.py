"""How sidecars are told to read requests: escaped slashes, dot segments in disguise, headers that proxies set."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
import re2
from envoy.config.listener.v3.listener_pb2 import Listener
from envoy.config.route.v3.route_components_pb2 import Route
from envoy.extensions.filters.http.header_mutation.v3.header_mutation_pb2 import HeaderMutationPerRoute
from envoy.extensions.filters.network.http_connection_manager.v3.http_connection_manager_pb2 import (
    HttpConnectionManager,
)

from services.compiler.render.request_handling import DOT_SEGMENT, MUTATION, STATEMENTS
from shared.projected_objects import ANNOTATION_ESCAPED_SLASHES, ANNOTATION_FORWARDERS
from shared.records.events import Event
from tests.unit.compiler import objects
from tests.unit.compiler.test_views import Told, told

_ACTIONS = HttpConnectionManager.PathWithEscapedSlashesAction
REJECT, DECODE, KEEP = _ACTIONS.REJECT_REQUEST, _ACTIONS.UNESCAPE_AND_FORWARD, _ACTIONS.KEEP_UNCHANGED


def manager(found: Told, listener: str, chain: str) -> HttpConnectionManager:
    read = HttpConnectionManager()
    assert found.chains(listener)[chain].filters[-1].typed_config.Unpack(read)
    return read


def actions(*more: Event) -> tuple[int, int]:
    """What the caller's and the called sidecar do with escaped slashes."""
    caller = manager(told("buy/buyer-0", *more), "outbound", "outbound|store/store-v1|80")
    called = manager(told("store/v1-0", *more), "inbound", "inbound|8080")
    return caller.path_with_escaped_slashes_action, called.path_with_escaped_slashes_action


def test_paths_are_normalised_and_escaped_slashes_rejected_on_both_sides_of_a_call() -> None:
    for listener, chain, pod in (
        ("outbound", "outbound|store/store-v1|80", "buy/buyer-0"),
        ("inbound", "inbound|8080", "store/v1-0"),
    ):
        found = manager(told(pod), listener, chain)
        assert found.normalize_path.value
        assert found.merge_slashes
        assert found.path_with_escaped_slashes_action == REJECT


@pytest.mark.parametrize(("word", "action"), [("Reject", REJECT), ("Decode", DECODE), ("Keep", KEEP)])
def test_the_mesh_config_says_what_becomes_of_escaped_slashes(word: str, action: int) -> None:
    assert actions(objects.mesh_config(escapedSlashes=word)) == (action, action)


def test_a_namespace_says_it_for_its_own_pods_and_for_those_who_call_them() -> None:
    store = objects.namespace("store", annotations={ANNOTATION_ESCAPED_SLASHES: " KEEP "})
    assert actions(store) == (KEEP, KEEP)
    buy = objects.namespace("buy", annotations={ANNOTATION_ESCAPED_SLASHES: "keep"})
    assert actions(buy, objects.mesh_config(escapedSlashes="Decode")) == (DECODE, DECODE)


def test_an_annotation_that_cannot_be_read_is_the_stricter_choice_and_is_named() -> None:
    store = objects.namespace(
        "store", annotations={ANNOTATION_ESCAPED_SLASHES: "kep", ANNOTATION_FORWARDERS: "gateway"}
    )
    config = objects.mesh_config(escapedSlashes="Keep", trustedForwarders=["buy/buyer"])
    assert actions(store, config) == (REJECT, REJECT)
    named = [(one.key.name, one.code) for one in told("store/v1-0", store, config).snapshot.quarantine]
    assert named == [("store", "mesh/annotation")] * 2


def test_in_permissive_mode_namespaces_that_read_requests_differently_do_not_share_a_class() -> None:
    permissive = objects.mesh_config(permissive=True)
    pods = [
        objects.namespace("far", annotations={ANNOTATION_ESCAPED_SLASHES: "keep"}),
        objects.pod("far", "far-0", account="far", ip="10.244.5.1", labels={"app": "far"}),
        objects.service("far", "far", ip="10.96.5.1"),
        objects.slices("far", "far", {"far-0": "10.244.5.1"}),
    ]
    for pod, action in (("far/far-0", KEEP), ("store/v1-0", REJECT)):
        found = manager(told(pod, permissive, *pods), "inbound", "inbound|8080")
        assert found.path_with_escaped_slashes_action == action


def test_a_change_of_policy_changes_no_listener() -> None:
    """Policy is in routes: listeners are updated for new ports and settings only, and then chain by chain."""
    more = objects.route_group("store", "routes", {"name": "browse", "headers": {"x-other": "a"}})
    before, after = told("store/v1-0"), told("store/v1-0", more)
    assert before.get(Listener, "inbound") == after.get(Listener, "inbound")
    assert before.routes("inbound|8080") != after.routes("inbound|8080")


def test_settings_of_requests_leave_the_listener_but_for_its_chains_as_it_is() -> None:
    """Envoy updates such a listener in place: no connection of another chain drains."""
    config = objects.mesh_config(escapedSlashes="Keep", trustedForwarders=["buy/buyer"])
    found: list[Listener] = []
    for events in ([], [config]):
        listener = told("store/v1-0", *events).get(Listener, "inbound")
        del listener.filter_chains[:]
        found.append(listener)
    assert found[0] == found[1]


@pytest.mark.parametrize(
    "path",
    [
        *("/a/%2e%2e;x/b", "/a/..%2fb", "/a%2f..", "/a/%2E%2e%5Cb", "/a/..%3bx/b", "/a/%252e%252e/b", "/a/.%2520/b"),
        *("/a/%25252e./b", "/a/%c0%ae%c0%ae/b", "/a%C0%AF../b", "/a/%e0%80%ae/b", "/%2e%2e;?x", "/a%252f..%252fb"),
    ],
)
def test_what_is_left_of_a_dot_segment_is_refused(path: str) -> None:
    assert re2.fullmatch(DOT_SEGMENT, path)


@pytest.mark.parametrize(
    "path",
    ["/", "/a.b/c..d", "/.well-known/x", "/..a/...", "/a%2fb", "/a%2f.git", "/a?/../b", "/a?x=%2e%2e;y", "/a;b=../c"],
)
def test_what_is_no_dot_segment_passes(path: str) -> None:
    assert not re2.fullmatch(DOT_SEGMENT, path)


@pytest.mark.parametrize(
    "name",
    [
        *("forwarded", "x-forwarded-for", "x-forwarded-host", "x-forwarded-proto", "x-forwarded-port", "x-real-ip"),
        *("x-forwarded-prefix", "x-forwarded", "x-forwarded-c", "x-forwarded-client-certs", "x-forwarded-client"),
        *("x_forwarded_for", "x-forwarded_client-cert", "x_forwarded-client-cert", "x-forwarded-client_cert"),
        *("x-envoy-original-path", "x-envoy-external-address", "x_envoy_internal", "x-original-url", "x-rewrite-url"),
        *("x.forwarded.for", "x-forwarded-client-cert-"),
    ],
)
def test_what_proxies_state_is_not_believed_of_callers(name: str) -> None:
    assert re2.fullmatch(STATEMENTS, name)


@pytest.mark.parametrize(
    "name",
    [
        *("x-forwarded-client-cert", "x-request-id", "x-forward", "forwarded-for", "x-realip", "x-b3-traceid", "via"),
        *("traceparent", "authorization", "x-http-method-override", "xforwardedfor", "x-user"),
    ],
)
def test_other_headers_are_the_business_of_applications(name: str) -> None:
    assert not re2.fullmatch(STATEMENTS, name)


def mutations(route: Route) -> list[str]:
    """What a route does to headers: `- expression`, or name and value."""
    if MUTATION not in route.typed_per_filter_config:
        return []
    read = HeaderMutationPerRoute()
    assert route.typed_per_filter_config[MUTATION].Unpack(read)
    return [
        "-" if one.WhichOneof("action") == "remove_on_match" else f"{one.append.header.key}={one.append.header.value}"
        for one in read.mutations.request_mutations
    ]


def test_headers_that_state_a_way_are_replaced_by_what_the_sidecar_knows() -> None:
    refused, everything = told("store/v1-0").routes("inbound|8080")
    assert refused.direct_response.status == 400
    address = "%DOWNSTREAM_DIRECT_REMOTE_ADDRESS_WITHOUT_PORT%"
    once = "client=%REQ(client)%"
    assert mutations(everything) == ["-", f"x-forwarded-for={address}", "x-forwarded-proto=http", once]


def forwarders(routes: Sequence[Route]) -> str:
    return routes[1].match.headers[0].string_match.safe_regex.regex if len(routes) == 3 else ""


def test_trusted_forwarders_are_believed_by_what_their_certificate_says() -> None:
    config = objects.mesh_config(trustedForwarders=["buy/buyer"])
    store = objects.namespace("store", annotations={ANNOTATION_FORWARDERS: "buy/thief, left/one"})
    routes = told("store/v1-0", config, store).routes("inbound|8080")
    expression = forwarders(routes)
    for account, may in (("buyer", True), ("thief", True), ("thief2", False), ("other", False)):
        header = (
            f"By=spiffe://cluster.local/ns/store/sa/store-v1;Hash=ab;URI=spiffe://cluster.local/ns/buy/sa/{account}"
        )
        assert (re2.fullmatch(expression, header) is not None) == may
    assert "left" not in expression, "a namespace that is no member"
    assert mutations(routes[1]) == ["client=%REQ(client)%"]
    assert mutations(routes[2])[0] == "-"
    tunnels = told("store/v1-0", config, store).tunnels("inbound|8080")
    assert [mutations(one) for one in tunnels] == [mutations(one) for one in routes[1:]], "tunnels are no way around"
    assert tunnels[0].match.headers == routes[1].match.headers
    assert forwarders(told("store/v1-0").routes("inbound|8080")) == ""
