"""What is beyond a budget is left out, alone, named with its figure; and what is left out opens nothing."""

from __future__ import annotations

from typing import Any

import pytest
import re2

from services.compiler.core.compiler import Compiler
from services.compiler.core.offline import compile_events
from services.compiler.mesh_state import MeshSettings
from shared.policy import regexes
from shared.policy.budgets import ENDPOINT_KB, PORT_KB, PRINCIPAL_KB, Budgets
from shared.projected_objects import ANNOTATION_CALLS, ServicePort
from shared.records.events import Event
from shared.records.snapshot import Snapshot
from tests.unit.compiler import objects
from tests.unit.compiler.test_bindings import THIEF, codes, mesh, principals
from tests.unit.compiler.test_views import Told, told
from tests.unit.shared.test_budgets import BOMB


def named(snapshot: Snapshot) -> list[tuple[str, str, str]]:
    return [(one.key.kind, one.code, one.sentence) for one in snapshot.quarantine]


def bomb(count: int) -> Event:
    matches = [{"name": f"m{i}", "pathRegex": BOMB.format(i)} for i in range(count)]
    return objects.route_group("store", "routes", *matches)


@pytest.mark.parametrize("count", [9_000, 90_000])
def test_a_bomb_opens_nothing_and_delays_no_other_change(count: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """9,000 matches took another tenant's change 54 seconds: here not one of them is compiled."""
    compiled: list[str] = []
    original = re2.compile

    def counting(pattern: str, options: Any) -> Any:
        compiled.append(pattern)
        return original(pattern, options)

    compiler, snapshot = Compiler(MeshSettings()), Snapshot()
    for sequence, event in enumerate(objects.bookstore(), 1):
        compiler.fold(event, sequence)
    commit = compiler.commit(snapshot)
    assert commit is not None
    snapshot.apply(commit)
    compiler.accept()
    monkeypatch.setattr(re2, "compile", counting)
    compiler.fold(bomb(count), 1000)
    compiler.fold(objects.pod("buy", "buyer-1", account="buyer", ip="10.244.1.7"), 1001)
    commit = compiler.commit(snapshot)
    assert commit is not None
    snapshot.apply(commit)
    assert compiled == []
    assert "cluster/buy/buyer-1" in snapshot.proxies
    bound = [(kind, code) for kind, code, _ in named(snapshot) if code.startswith("budget/")]
    assert bound == [("HTTPRouteGroup", "budget/object-bytes")]


def test_a_service_beyond_its_ports_is_closed_and_named_with_the_figure() -> None:
    ports = [ServicePort(port=1 + i, target_port=8080) for i in range(501)]
    found = told("buy/buyer-0", mesh=[*objects.bookstore(), objects.service("store", "store-v1", ports=ports)])
    assert "outbound|store/store-v1|80" not in found.calls()
    assert "outbound|store/store-v2|80" in found.calls()
    sentence = "has 501 ports, more than 500; divide it into several Services"
    assert ("Service", "budget/service-ports", sentence) in named(found.snapshot)


def test_a_slice_beyond_its_endpoints_is_closed() -> None:
    pods = {"v1-0": "10.244.2.1"} | {f"x-{i}": f"10.9.{i // 250}.{i % 250}" for i in range(1000)}
    found = told("buy/buyer-0", mesh=[*objects.bookstore(), objects.slices("store", "store-v1", pods)])
    assert "budget/slice-endpoints" in codes(found.snapshot)
    assert "outbound|store/store-v1|80" not in found.calls(), "no account is behind it any more"


def test_a_pod_beyond_its_labels_lets_a_binding_mean_no_more_than_with_it() -> None:
    """Were such a pod left out, a binding that its labels kept closed would open."""
    by_label = objects.binding("buy", "bound", podLabelSelector={"matchLabels": {"app": "thief"}})
    assert principals(told("store/v1-0", mesh=mesh(by_label))) == [THIEF]
    many = {f"l{i}": "v" for i in range(300)}
    other = objects.pod("buy", "other-0", account="thief", ip="10.244.1.9", labels=many)
    found = told("store/v1-0", mesh=mesh(by_label, other))
    assert principals(found) == []
    assert codes(found.snapshot) == {"smi/binding-shared", "budget/pod-labels"}
    absent = {"key": "app", "operator": "NotIn", "values": ["other"]}
    by_absence = objects.binding("buy", "bound", podLabelSelector={"matchExpressions": [absent]})
    assert THIEF not in principals(told("store/v1-0", mesh=mesh(by_absence, other)))


def test_an_object_within_wider_budgets_is_compiled() -> None:
    ports = [ServicePort(port=1 + i, target_port=8080) for i in range(501)]
    compiler, snapshot = Compiler(MeshSettings(budgets=Budgets(service_ports=501, foreign_kb=100_000))), Snapshot()
    for sequence, event in enumerate(
        [*objects.bookstore(), objects.service("store", "store-v1", ip="10.96.1.2", ports=ports)], 1
    ):
        compiler.fold(event, sequence)
    commit = compiler.commit(snapshot)
    assert commit is not None
    snapshot.apply(commit)
    assert not codes(snapshot)


# What a namespace puts into sidecars


def red(*events: Event) -> list[Event]:
    """The bookstore, and a namespace that has one pod and lets the buyer call it, unasked."""
    return [
        *objects.bookstore(),
        objects.namespace("red"),
        objects.pod("red", "evil-0", account="evil", ip="10.244.9.1", labels={"app": "evil"}),
        objects.tcp_route("red", "any"),
        objects.target(
            "red",
            "evil",
            destination="evil",
            sources=[("buy", "buyer"), ("red", "evil")],
            rules=[("TCPRoute", "any", [])],
        ),
        *events,
    ]


def offered(name: str, ports: int, *, ip: str, created: str = "2026-01-02T00:00:00Z") -> list[Event]:
    """A service before the pod of `red`."""
    found = [ServicePort(port=1000 + i, target_port=8080, name=f"http-{i}") for i in range(ports)]
    return [
        objects.service("red", name, ip=ip, ports=found, selector={"app": "evil"}, created=created),
        objects.slices("red", name, {"evil-0": "10.244.9.1"}, ports={f"http-{i}": 8080 for i in range(ports)}),
    ]


def compiled(events: list[Event], **limits: int) -> Snapshot:
    return compile_events(events, MeshSettings(budgets=Budgets(**limits)))


def calls(snapshot: Snapshot, pod: str) -> set[str]:
    return Told(snapshot, pod).calls()


def test_ten_services_of_500_ports_do_not_fill_the_sidecar_of_a_caller_who_did_not_ask() -> None:
    """They grew it from 8 to 378 MB."""
    bombs = [one for i in range(10) for one in offered(f"s{i}", 500, ip=f"10.97.0.{i + 1}")]
    found = compiled(red(*bombs))
    assert calls(found, "buy/buyer-0") == calls(compiled(objects.bookstore()), "buy/buyer-0")
    assert len(calls(found, "red/evil-0")) == 3500, "its own sidecar may be larger: 400,000 kB"
    left = [one for one in found.quarantine if one.code == "budget/foreign-kb"]
    assert [one.key.name for one in left] == [f"s{i}" for i in range(7)]
    assert "for callers of namespace buy: it would take an estimated 56536 kB" in left[0].sentence
    assert "may take 8000 kB" in left[0].sentence
    beyond = [one.key.name for one in found.quarantine if one.code == "budget/offered-kb"]
    assert beyond == ["s7", "s8", "s9"]


def test_a_split_of_1500_expressions_does_not_fill_the_sidecar_of_a_caller_who_did_not_ask() -> None:
    """They grew it from 8 to 149 MB. Without the split, calls go to the root's own pods, which decide about them."""
    groups = [
        objects.route_group(
            "red", f"g{i}", *[{"name": f"m{j}", "pathRegex": BOMB.format(f"{i}-{j}")} for j in range(25)]
        )
        for i in range(4)
    ]
    split = objects.split(
        "red", "bomb", root="root", backends={"root": 1, "back": 1}, matches=[f"g{i}" for i in range(4)]
    )
    services = [*offered("root", 1, ip="10.97.0.1"), *offered("back", 1, ip="10.97.0.2")]
    found = compiled(red(*services, *groups, split))
    buyer, evil = Told(found, "buy/buyer-0"), Told(found, "red/evil-0")
    assert len(buyer.routes("outbound|red/root|1000")) == 1
    assert len(evil.routes("outbound|red/root|1000")) == 101, "its own sidecar takes all of it"
    assert "outbound|red/root|1000" in buyer.calls()
    assert [(one.key.kind, one.code) for one in found.quarantine] == [("TrafficSplit", "budget/foreign-kb")]


def test_a_service_that_is_added_throws_out_no_older_one() -> None:
    old = offered("old", 60, ip="10.97.0.1", created="2026-01-01T00:00:00Z")
    new = offered("new", 60, ip="10.97.0.2", created="2026-01-03T00:00:00Z")
    for events in (red(*old, *new), red(*new, *old)):
        assert {name.split("|")[1] for name in calls(compiled(events), "buy/buyer-0")} >= {"red/old"}
        assert "outbound|red/new|1000" not in calls(compiled(events), "buy/buyer-0")
    small = offered("small", 1, ip="10.97.0.3", created="2026-01-04T00:00:00Z")
    assert "outbound|red/small|1000" in calls(compiled(red(*old, *new, *small)), "buy/buyer-0"), "what fits is taken"


def test_who_asks_for_a_namespace_holds_what_its_own_sidecars_hold() -> None:
    asked = objects.namespace("buy", annotations={ANNOTATION_CALLS: "store, red"})
    found = compiled(red(*offered("big", 200, ip="10.97.0.1"), asked))
    assert "outbound|red/big|1000" in calls(found, "buy/buyer-0")
    assert not codes(found)


def one_port(**limits: int) -> tuple[set[str], set[str], set[str]]:
    """Calls of the buyer and of the pod itself, and codes, for one service of one port and one endpoint."""
    found = compiled(red(*offered("one", 1, ip="10.97.0.1")), **limits)
    return calls(found, "buy/buyer-0"), calls(found, "red/evil-0"), codes(found)


def test_each_budget_of_a_namespace_passes_at_its_limit_and_not_one_above() -> None:
    name = "outbound|red/one|1000"
    exactly = PORT_KB + ENDPOINT_KB
    for limit in ("foreign_kb", "offered_kb"):
        buyer, evil, found = one_port(**{limit: exactly})
        assert name in buyer
        assert name in evil
        buyer, evil, found = one_port(**{limit: exactly - 1})
        assert name not in buyer
        assert (name in evil) == (limit == "foreign_kb")
        assert f"budget/{limit.replace('_', '-')}" in found
    assert name in one_port(namespace_endpoints=2)[0]
    whole = 2 * exactly + 2 * PRINCIPAL_KB
    assert name in one_port(namespace_kb=whole)[0]
    buyer, evil, found = one_port(namespace_kb=whole - 1)
    assert name not in buyer | evil
    assert "budget/namespace-kb" in found


def test_endpoints_of_a_namespace_are_counted_for_each_port() -> None:
    events = red(*offered("few", 2, ip="10.97.0.1"), *offered("more", 3, ip="10.97.0.2"))
    assert "outbound|red/more|1000" in calls(compiled(events, namespace_endpoints=5), "red/evil-0")
    found = compiled(events, namespace_endpoints=4)
    assert "outbound|red/more|1000" not in calls(found, "red/evil-0")
    assert "outbound|red/few|1000" in calls(found, "red/evil-0")
    assert "budget/namespace-endpoints" in codes(found)


def test_open_ports_are_counted_for_each_kind_of_pod() -> None:
    events = red(*offered("one", 1, ip="10.97.0.1"))
    more = objects.pod("red", "other-0", account="other", ip="10.244.9.2", labels={"app": "evil"})
    assert "inbound|8080" in Told(compiled([*events, more], namespace_open_ports=2), "red/evil-0").chains("inbound")
    found = compiled([*events, more], namespace_open_ports=1)
    assert "inbound|8080" not in Told(found, "red/evil-0").chains("inbound")
    assert "budget/open-ports" in codes(found)


def test_a_service_that_opens_nothing_still_decides_the_protocol_of_its_ports() -> None:
    """Or a younger one would make requests of what the older one says is bytes, and targets by requests open it."""
    bytes_first = ServicePort(port=1, target_port=8080, name="tcp-old")
    other = ServicePort(port=2, target_port=9999, name="tcp-other")
    older = objects.service(
        "red",
        "old",
        ip="10.97.0.1",
        ports=[bytes_first, other],
        selector={"app": "evil"},
        created="2026-01-01T00:00:00Z",
    )
    found = compiled(red(older, *offered("new", 1, ip="10.97.0.2")), pod_open_ports=1)
    chain = Told(found, "red/evil-0").chains("inbound")["inbound|8080"]
    assert chain.filters[-1].name == "envoy.filters.network.tcp_proxy"
    assert "inbound|9999" not in Told(found, "red/evil-0").chains("inbound")


def test_expressions_of_a_namespace_are_compiled_within_its_budget_the_oldest_groups_first(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    regexes.forget()
    compiled_now: list[str] = []
    original = re2.compile

    def counting(pattern: str, options: Any) -> Any:
        compiled_now.append(pattern)
        return original(pattern, options)

    monkeypatch.setattr(re2, "compile", counting)
    groups = [
        objects.route_group("red", f"g{i:02}", *[{"pathRegex": f"/{i}/{j}/[^/]+"} for j in range(100)])
        for i in range(50)
    ]
    found = compiled(red(*reversed(groups)), namespace_matches=1000)
    left = [one.key.name for one in found.quarantine if one.code == "budget/namespace"]
    assert left == [f"g{i:02}" for i in range(10, 50)]
    assert len(compiled_now) <= 1010
    bombs = [
        objects.route_group("red", f"b{i:02}", *[{"pathRegex": BOMB.format(f"{i}-{j}")} for j in range(20)])
        for i in range(50)
    ]
    compiled_now.clear()
    found = compiled(red(*bombs), namespace_expressions=100_000)
    assert len(compiled_now) <= 2 * 80, "100,000 of 1,930 each, as written and as Envoy is told"
    assert next(one.key.name for one in found.quarantine if one.code == "budget/namespace") == "b02"
