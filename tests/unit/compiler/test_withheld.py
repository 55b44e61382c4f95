"""An object that the log has only in its closed form grants nothing, opens nothing, is named, and comes back."""

from __future__ import annotations

from typing import NamedTuple

import msgspec
import pytest

from cli.calls.matching import HttpRequest
from cli.calls.path import Sidecars
from services.compiler.core.offline import compile_events
from shared.projected_objects import ANNOTATION_PERMISSIVE, KINDS, ServicePort, TokenIssuer
from shared.records import events
from shared.records.events import Event, encode_object
from shared.records.snapshot import Snapshot
from shared.records.withheld import MOST_BYTES, closed, said
from tests.unit.compiler import objects
from tests.unit.compiler.test_bindings import mesh as bound

ADDRESSES = {
    "10.244.1.1": "cluster/buy/buyer-0",
    "10.244.1.2": "cluster/buy/thief-0",
    "10.244.2.1": "cluster/store/v1-0",
    "10.244.2.2": "cluster/store/v2-0",
    "10.244.2.3": "cluster/store/db-0",
}
SIZE = MOST_BYTES + 1


def withheld(event: Event, *, told: bool = True) -> Event:
    """What the ingestor writes of it once it is too large; not `told`: as a build reads that which knows no such."""
    assert event.object is not None
    value = closed(event.kind, msgspec.json.decode(event.object, type=KINDS[event.kind]))
    return msgspec.structs.replace(
        event, resource_version="2", object=encode_object(value), withheld=SIZE if told else 0
    )


class Call(NamedTuple):
    """A call as it arrives at a server; `host`: as it leaves the buyer, to an address instead."""

    account: str
    server: str
    port: int = 8080
    path: str | None = "/books"
    host: str = ""


def passes(snapshot: Snapshot, call: Call) -> bool:
    sidecars = Sidecars(snapshot, ADDRESSES)
    request = HttpRequest(method="GET", path=call.path or "/")
    if call.host:
        return any(way.passes for way in sidecars.decide("cluster/buy/buyer-0", call.host, 80, request).ways)
    identity = f"spiffe://cluster.local/ns/{call.account.replace('/', '/sa/')}"
    return sidecars.enter(identity, f"cluster/store/{call.server}", call.port, request if call.path else None).passes


STORE = objects.bookstore()
BUYS, STEALS = Call("buy/buyer", "v1-0"), Call("buy/thief", "v1-0")
OPEN = objects.mesh_config(permissive=True)
BY_LABEL = objects.binding("buy", "bound", podLabelSelector={"matchLabels": {"app": "thief"}})
NOT_THE_THIEF = objects.binding(
    "buy", "bound", podLabelSelector={"matchExpressions": [{"key": "app", "operator": "NotIn", "values": ["thief"]}]}
)
SHUT = objects.namespace("store", annotations={ANNOTATION_PERMISSIVE: "false"})


def one_of(mesh: list[Event], kind: str, name: str) -> Event:
    return next(event for event in mesh if (event.kind, event.name) == (kind, name))


LET = {
    "TrafficTarget": (STORE, one_of(STORE, "TrafficTarget", "buyer-v1"), BUYS),
    "HTTPRouteGroup": (STORE, one_of(STORE, "HTTPRouteGroup", "routes"), BUYS),
    "TCPRoute": (STORE, one_of(STORE, "TCPRoute", "db"), Call("store/store-v1", "db-0", 5432, None)),
    "IdentityBinding": (bound(BY_LABEL), BY_LABEL, STEALS),
    "Pod": (bound(BY_LABEL), one_of(STORE, "Pod", "thief-0"), STEALS),
    "MeshConfig": ([*STORE, OPEN], OPEN, Call("buy/thief", "v2-0")),
    "Service": (STORE, one_of(STORE, "Service", "store-v1"), Call("buy/buyer", "v1-0", host="10.96.1.2")),
    "EndpointSlice": (STORE, one_of(STORE, "EndpointSlice", "store-v1-0"), Call("buy/buyer", "", host="10.96.1.2")),
}
"""Kind → a mesh, an object of it, and a call that passes by it alone."""


@pytest.mark.parametrize("told", [True, False], ids=["told", "to an older build"])
@pytest.mark.parametrize("kind", LET)
def test_what_it_let_pass_passes_no_more_and_again_when_it_is_small(kind: str, *, told: bool) -> None:
    mesh, event, call = LET[kind]
    assert passes(compile_events(mesh), call)
    after = compile_events([*mesh, withheld(event, told=told)])
    assert not passes(after, call)
    small = msgspec.structs.replace(event, resource_version="3")
    back = compile_events([*mesh, withheld(event, told=told), small])
    assert passes(back, call)
    assert not [one for one in back.quarantine if one.key == event.key]


PORTS = [ServicePort(port=80, target_port=8080, name="tcp-x")]
TWO_PORTS = [*STORE, objects.service("store", "other", ip="10.96.1.9", selector={"app": "db"}, ports=PORTS)]
CLOSED = {
    "Namespace": ([*STORE, OPEN, SHUT], SHUT, Call("buy/thief", "v1-0", path="/other")),
    "TCPRoute": (TWO_PORTS, one_of(STORE, "TCPRoute", "db"), Call("store/store-v1", "db-0", 8080, None)),
    "Pod": (bound(NOT_THE_THIEF), one_of(STORE, "Pod", "thief-0"), STEALS),
    "HTTPRouteGroup": (STORE, one_of(STORE, "HTTPRouteGroup", "routes"), Call("buy/buyer", "v1-0", path="/other")),
}
"""Kind → a mesh, an object of it, and a call that its presence closes."""


@pytest.mark.parametrize("told", [True, False], ids=["told", "to an older build"])
@pytest.mark.parametrize("kind", CLOSED)
def test_what_it_closed_stays_closed(kind: str, *, told: bool) -> None:
    mesh, event, call = CLOSED[kind]
    assert not passes(compile_events(mesh), call)
    assert not passes(compile_events([*mesh, withheld(event, told=told)]), call)


def test_the_calls_that_a_presence_closes_would_pass_without_it() -> None:
    """Else the test above could not fail."""
    for kind, gone in {"Namespace": objects.namespace("store"), "TCPRoute": objects.tcp_route("store", "db")}.items():
        mesh, _, call = CLOSED[kind]
        assert passes(compile_events([*mesh, gone]), call), kind


def test_a_namespace_stays_in_the_mesh_or_out_of_it_as_its_labels_say() -> None:
    """Were it out, its sidecars would keep what they hold, and hear of no later change."""
    for namespace, member in ((objects.namespace("store"), True), (objects.namespace("store", mesh=None), False)):
        assert ("store" in compile_events([*STORE, withheld(namespace)]).mesh_namespaces) is member


def test_a_service_keeps_its_address_from_others() -> None:
    service = one_of(STORE, "Service", "store-v1")
    late = objects.service("buy", "trap", ip="10.96.1.2", created="2026-02-01T00:00:00Z", selector={"app": "thief"})
    trap = objects.slices("buy", "trap", {"thief-0": "10.244.1.2"})
    after = compile_events([*STORE, late, trap, withheld(service)])
    assert "outbound|buy/trap|80" not in {
        name for view in after.views.values() for held in view.values() for name in held
    }


@pytest.mark.parametrize("kind", sorted({*LET, "Namespace", "TrafficSplit"}))
def test_it_is_named_with_its_figure(kind: str) -> None:
    event = LET[kind][1] if kind in LET else one_of(STORE, kind, {"Namespace": "store"}.get(kind, "canary"))
    mesh = LET[kind][0] if kind in LET else STORE
    (named,) = [one for one in compile_events([*mesh, withheld(event)]).quarantine if one.key == event.key]
    assert named.code == "object/too-large"
    assert str(SIZE) in named.sentence


def test_the_shares_of_a_split_stay_as_they_were() -> None:
    canary = one_of(STORE, "TrafficSplit", "canary")
    before, after = compile_events(STORE), compile_events([*STORE, withheld(canary)])
    assert (after.views, after.proxies) == (before.views, before.proxies)


@pytest.mark.parametrize("kind", KINDS)
def test_a_closed_form_is_small_and_reads_as_its_kind(kind: str) -> None:
    meta = {
        "name": "n" * 253,
        "namespace": "s" * 63,
        "uid": "u" * 36,
        "labels": {f"k{number}": "v" * 63 for number in range(20_000)},
        "annotations": {
            **{f"meshlog.io/a{number}": "v" * 100 for number in range(10_000)},
            ANNOTATION_PERMISSIVE: "true" + " " * 300_000,
        },
    }
    whole = {"metadata": meta, "spec": {"provider": {"x": "y" * 900_000}, "trustDomain": "a.b"}}
    value = (
        TokenIssuer(issuer="https://i", jwks={"keys": ["k" * 900_000]})
        if kind == "TokenIssuer"
        else msgspec.convert(whole, type=KINDS[kind])
    )
    body = encode_object(closed(kind, value))
    assert len(bytes(body)) < 16 * 1024
    assert msgspec.json.decode(body, type=KINDS[kind]) == closed(kind, value)
    if kind == "Namespace":
        assert closed(kind, value).metadata.annotations[ANNOTATION_PERMISSIVE] == "false", "the stricter, if too long"
    assert said(kind, SIZE)[0] == "object/too-large"
    assert said(kind, 1)[0] == "object/unreadable"


def test_an_event_says_what_it_withholds_and_others_are_as_they_were() -> None:
    event = STORE[0]
    assert b"withheld" not in events.encode(event)
    assert events.decode(events.encode(withheld(event))).withheld == SIZE
