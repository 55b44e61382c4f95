"""Identity bindings mean exactly the accounts that they can mean, and nobody more."""

from __future__ import annotations

from shared.records.events import Event
from shared.records.snapshot import Snapshot
from tests.unit.compiler import objects
from tests.unit.compiler.test_views import Told, told, without_policy

ROUTES = [("HTTPRouteGroup", "routes", ["browse"])]
THIEF = "spiffe://cluster.local/ns/buy/sa/thief"


def mesh(binding: Event, *more: Event, as_destination: bool = False) -> list[Event]:
    """The thief, if the binding means it, may browse version 1 of the store."""
    group = objects.route_group("store", "routes", {"name": "browse", "pathRegex": "/books", "methods": ["GET"]})
    source = {"kind": "IdentityBinding", "name": "bound", "namespace": "buy"}
    subjects: dict[str, object] = {"sources": [source]}
    if as_destination:
        subjects = {"destination": {"kind": "IdentityBinding", "name": "bound", "namespace": "store"}}
    target = objects.target(
        "store", "bound", destination="store-v1", sources=[("buy", "thief")], rules=ROUTES, subjects=subjects
    )
    return [*without_policy(), group, target, binding, *more]


def principals(found: Told) -> list[str]:
    return [
        principal.authenticated.principal_name.exact
        for rule in found.rules(8080).policies.values()
        for principal in rule.principals
    ]


def codes(snapshot: Snapshot) -> set[str]:
    return {one.code for one in snapshot.quarantine}


def test_a_service_account_is_meant() -> None:
    assert principals(told("store/v1-0", mesh=mesh(objects.binding("buy", "bound", serviceAccount="thief")))) == [THIEF]


def test_spiffe_identities_of_its_own_namespace_are_meant_and_others_are_named() -> None:
    listed = ["cluster.local/ns/buy/sa/thief", "cluster.local/ns/store/sa/db", "other.mesh/ns/buy/sa/thief", "x"]
    found = told("store/v1-0", mesh=mesh(objects.binding("buy", "bound", spiffeIdentities=listed)))
    assert principals(found) == [THIEF]
    assert [one.code for one in found.snapshot.quarantine] == ["smi/binding-identity"] * 3


def test_pods_by_labels_are_meant_if_their_account_has_no_others() -> None:
    by_label = objects.binding("buy", "bound", podLabelSelector={"matchLabels": {"app": "thief"}})
    assert principals(told("store/v1-0", mesh=mesh(by_label))) == [THIEF]
    other = objects.pod("buy", "other-0", account="thief", ip="10.244.1.9", labels={"app": "other"})
    shared = told("store/v1-0", mesh=mesh(by_label, other))
    assert principals(shared) == []
    assert codes(shared.snapshot) == {"smi/binding-shared"}
    without_sidecar = objects.pod("buy", "other-0", account="thief", ip="10.244.1.9", sidecar=False)
    assert principals(told("store/v1-0", mesh=mesh(by_label, without_sidecar))) == [THIEF]


def test_expressions_select_like_kubernetes() -> None:
    def selects(operator: str, *values: str) -> bool:
        expression = {"key": "app", "operator": operator} | ({"values": list(values)} if values else {})
        binding = objects.binding("buy", "bound", podLabelSelector={"matchExpressions": [expression]})
        return THIEF in principals(told("store/v1-0", mesh=mesh(binding)))

    assert selects("In", "thief", "x")
    assert not selects("In", "x")
    assert selects("NotIn", "x")
    assert not selects("NotIn", "thief")
    assert selects("Exists")
    assert not selects("DoesNotExist")


def test_a_binding_opens_what_it_means_as_a_destination() -> None:
    binding = objects.binding("store", "bound", podLabelSelector={"matchLabels": {"version": "v1"}})
    snapshot = mesh(binding, as_destination=True)
    assert principals(told("store/v1-0", mesh=snapshot)) == [THIEF]
    assert principals(told("store/v2-0", mesh=snapshot)) == []
    assert "outbound|store/store-v1|80" in told("buy/thief-0", mesh=snapshot).calls()


def test_a_binding_that_is_missing_or_says_two_things_means_nobody() -> None:
    missing = told("store/v1-0", mesh=mesh(objects.deleted("IdentityBinding", "buy", "bound")))
    assert principals(missing) == []
    assert codes(missing.snapshot) == {"smi/binding-missing"}
    both = objects.binding("buy", "bound", serviceAccount="thief", podLabelSelector={"matchLabels": {"app": "thief"}})
    found = told("store/v1-0", mesh=mesh(both))
    assert principals(found) == []
    assert "smi/binding-schemes" in codes(found.snapshot)


def test_everything_is_not_granted_by_an_empty_selector() -> None:
    found = told("store/v1-0", mesh=mesh(objects.binding("buy", "bound", podLabelSelector={"matchLabels": {}})))
    assert principals(found) == []
