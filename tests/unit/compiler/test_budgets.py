"""What is beyond a budget is left out, alone, named with its figure; and what is left out opens nothing."""

from __future__ import annotations

from typing import Any

import pytest
import re2

from services.compiler.compiler import Compiler
from services.compiler.mesh import MeshSettings
from shared.events import Event
from shared.model import ServicePort
from shared.policy.budgets import Budgets
from shared.snapshot import Snapshot
from tests.unit.compiler import objects
from tests.unit.compiler.test_bindings import THIEF, codes, mesh, principals
from tests.unit.compiler.test_views import told
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
    compiler, snapshot = Compiler(MeshSettings(budgets=Budgets(service_ports=501))), Snapshot()
    for sequence, event in enumerate(
        [*objects.bookstore(), objects.service("store", "store-v1", ip="10.96.1.2", ports=ports)], 1
    ):
        compiler.fold(event, sequence)
    commit = compiler.commit(snapshot)
    assert commit is not None
    snapshot.apply(commit)
    assert not codes(snapshot)
