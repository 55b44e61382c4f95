"""With budgets that almost everything exceeds: the result is still that from scratch, and nothing is opened by them."""

from __future__ import annotations

import msgspec
from envoy.config.listener.v3.listener_pb2 import Listener
from envoy.config.rbac.v3.rbac_pb2 import RBAC, Policy
from envoy.config.route.v3.route_pb2 import RouteConfiguration
from envoy.extensions.filters.http.rbac.v3.rbac_pb2 import RBACPerRoute
from envoy.extensions.filters.network.rbac.v3 import rbac_pb2 as network_rbac
from hypothesis import given, settings
from hypothesis import strategies as st

from services.compiler.core.offline import compile_events
from services.compiler.mesh_state import MeshSettings
from services.compiler.render.routes import HTTP_RBAC
from shared.policy.budgets import DEFAULTS, ENDPOINT_KB, PORT_KB, PRINCIPAL_KB, Budgets
from shared.projected_objects import ANNOTATION_CALLS, ANNOTATION_PERMISSIVE, Namespace
from shared.records.events import Event
from shared.records.snapshot import LDS, RDS, Snapshot
from tests.property.compiler.test_incremental import SLOW, assert_whole, bodies, contents, incremental
from tests.property.compiler.worlds import NAMESPACES, flat, histories


def narrow(most: int, *, unit: int = 1, usual: int) -> st.SearchStrategy[int]:
    """A limit that is met, or the usual one, so that each of the others is met alone too."""
    return st.just(usual) | st.integers(0, most).map(lambda count: count * unit)


budgets = st.builds(
    Budgets,
    namespace_open_ports=narrow(12, usual=DEFAULTS.namespace_open_ports),
    pod_open_ports=narrow(4, usual=DEFAULTS.pod_open_ports),
    namespace_endpoints=narrow(10, usual=DEFAULTS.namespace_endpoints),
    namespace_matches=narrow(6, usual=DEFAULTS.namespace_matches),
    namespace_expressions=narrow(200, usual=DEFAULTS.namespace_expressions),
    namespace_kb=narrow(20, unit=PORT_KB + PRINCIPAL_KB, usual=DEFAULTS.namespace_kb),
    offered_kb=narrow(8, unit=PORT_KB + ENDPOINT_KB, usual=DEFAULTS.offered_kb),
    foreign_kb=narrow(6, unit=PORT_KB + ENDPOINT_KB, usual=DEFAULTS.foreign_kb),
)


@settings(SLOW, max_examples=200)
@given(histories(), budgets)
def test_incremental_is_from_scratch_with_any_budgets(batches: list[list[Event]], limits: Budgets) -> None:
    told = MeshSettings(budgets=limits)
    assert contents(incremental(batches, told)) == contents(compile_events(flat(batches), told))


@settings(SLOW, max_examples=100)
@given(histories(), budgets)
def test_the_order_of_events_does_not_decide_what_is_left_out(batches: list[list[Event]], limits: Budgets) -> None:
    told = MeshSettings(budgets=limits)
    once = {(event.kind, event.namespace, event.name): event for event in reversed(flat(batches))}
    forward, backward = (
        compile_events(list(events), told) for events in (once.values(), reversed(list(once.values())))
    )
    assert contents(forward) == contents(backward)
    assert_whole(forward)


def let_through(snapshot: Snapshot) -> set[tuple[str, str, str, bytes]]:
    """Proxy, chain, name and body of everything that lets a caller through; a chain of bytes with its callers."""
    found: set[tuple[str, str, str, bytes]] = set()
    for key, proxy in snapshot.proxies.items():
        view = snapshot.views[proxy.workload_class]
        for body in bodies(snapshot, view, LDS):
            listener = Listener.FromString(body)
            for chain in listener.filter_chains if listener.name == "inbound" else ():
                found.add((key, chain.name, "chain", b""))
                for item in chain.filters:
                    guard = network_rbac.RBAC()
                    if item.typed_config.Unpack(guard):
                        found |= {(key, chain.name, *one) for one in policies(guard.rules)}
        for body in bodies(snapshot, view, RDS):
            routes = RouteConfiguration.FromString(body)
            for route in routes.virtual_hosts[0].routes:
                guard = RBACPerRoute()
                if HTTP_RBAC in route.typed_per_filter_config:
                    assert route.typed_per_filter_config[HTTP_RBAC].Unpack(guard)
                    found |= {(key, routes.name, *one) for one in policies(guard.rbac.rules)}
    return found


def policies(rules: RBAC) -> set[tuple[str, bytes]]:
    return {(name, policy.SerializeToString(deterministic=True)) for name, policy in rules.policies.items()}


def assert_within(batches: list[list[Event]], limits: Budgets) -> None:
    events = flat(batches)
    wide, found = compile_events(events), compile_events(events, MeshSettings(budgets=limits))
    whole = {(proxy, chain, name): Policy.FromString(body) for proxy, chain, name, body in let_through(wide)}
    # Of each rule of a target, some part may be gone; nothing is there that is not there without budgets.
    for proxy, chain, name, body in let_through(found):
        assert (proxy, chain, name) in whole
        before, now = whole[proxy, chain, name], Policy.FromString(body)
        assert all(one in before.permissions for one in now.permissions)
        assert all(one in before.principals for one in now.principals)
    told = opened_to_all(events)
    for proxy in found.proxies.values():
        names = found.views[proxy.workload_class].get(LDS, {})
        listeners = [Listener.FromString(found.resources[LDS, name, names[name]].body) for name in names]
        chains = [chain.name for listener in listeners for chain in listener.filter_chains]
        assert sum(name.startswith("inbound|") for name in chains) <= limits.pod_open_ports
        for namespace in set(found.mesh_namespaces) - {proxy.namespace} - told:
            foreign = sum(name.startswith(f"outbound|{namespace}/") for name in chains)
            assert foreign * PORT_KB <= limits.foreign_kb


def opened_to_all(events: list[Event]) -> set[str]:
    """Namespaces that may tell everybody, or somebody who asked, of more than a little."""
    found: set[str] = set()
    permissive = any(b'Mode":true' in bytes(event.object or b"") for event in events)
    for event in {event.name: event for event in events if event.kind == "Namespace"}.values():
        value = None if event.object is None else msgspec.json.decode(event.object, type=Namespace)
        annotations = {} if value is None else value.metadata.annotations
        if ANNOTATION_CALLS in annotations:
            return set(NAMESPACES)
        word = annotations.get(ANNOTATION_PERMISSIVE)
        if word == "true" or (word is None and permissive):
            found.add(event.name)
    return found


@settings(SLOW, max_examples=150)
@given(histories(), budgets)
def test_what_is_left_out_opens_nothing_and_no_sidecar_is_filled_by_others(
    batches: list[list[Event]], limits: Budgets
) -> None:
    assert_within(batches, limits)
