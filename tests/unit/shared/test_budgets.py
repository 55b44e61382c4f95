"""Budgets of one object: at the limit it passes, one above it is refused with both figures, before any RE2 runs."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import msgspec
import pytest
import re2

from shared.errors import BadInputError
from shared.policy import regexes
from shared.policy.budgets import DEFAULTS, Budgets, budgets_of, changed_from_defaults, judge_object
from shared.policy.decode import decode, outline
from shared.policy.errors import PolicyError
from shared.projected_objects import (
    Container,
    ContainerPort,
    EndpointSlice,
    Meta,
    Pod,
    PodSpec,
    PolicyObject,
    Service,
    ServicePort,
    ServiceSpec,
    SliceEndpoint,
    SlicePort,
)

META = Meta(name="x", namespace="shop")
ACCOUNT = {"kind": "ServiceAccount", "name": "web", "namespace": "shop"}
RULE = {"kind": "TCPRoute", "name": "any"}
BOMB = "/{}(?:a{{960}}|b{{960}})"
"""An expression as costly as one may be: its program has a size of some 1,930."""


class Counted(msgspec.Struct, frozen=True):
    """How an object with so many of something is made."""

    kind: str
    limit: str
    code: str
    spec: Callable[[int], dict[str, Any]]


def target(**changes: Any) -> dict[str, Any]:
    return {"destination": ACCOUNT, "sources": [ACCOUNT], "rules": [RULE], **changes}


def binding(**schemes: Any) -> dict[str, Any]:
    return {"schemes": schemes}


COUNTED: list[Counted] = [
    Counted("HTTPRouteGroup", "matches", "matches", lambda n: {"matches": [{"name": str(i)} for i in range(n)]}),
    Counted(
        "HTTPRouteGroup",
        "headers",
        "headers",
        lambda n: {"matches": [{"headers": {f"x-{i}": "a" for i in range(n)}}]},
    ),
    Counted(
        "HTTPRouteGroup",
        "headers",
        "headers",
        lambda n: {"matches": [{"headers": [{f"x-{i}": "a"} for i in range(n)]}]},
    ),
    Counted("HTTPRouteGroup", "methods", "methods", lambda n: {"matches": [{"methods": [f"M{i}" for i in range(n)]}]}),
    Counted(
        "HTTPRouteGroup",
        "expressions",
        "expressions",
        lambda n: {
            "matches": [{"headers": {f"x-{j}": "a" for j in range(min(32, n - start))}} for start in range(0, n, 32)]
        },
    ),
    Counted(
        "HTTPRouteGroup",
        "expression_chars",
        "expression-chars",
        lambda n: {"matches": [{"pathRegex": "a" * min(1000, n - start)} for start in range(0, n, 1000)]},
    ),
    Counted(
        "HTTPRouteGroup",
        "unicode_classes",
        "unicode-classes",
        lambda n: {"matches": [{"pathRegex": r"/\pL"} for _ in range(n)]},
    ),
    Counted("TrafficTarget", "rules", "rules", lambda n: target(rules=[RULE] * n)),
    Counted("TrafficTarget", "sources", "sources", lambda n: target(sources=[ACCOUNT] * n)),
    Counted(
        "TrafficTarget",
        "matches",
        "matches",
        lambda n: target(rules=[{"kind": "HTTPRouteGroup", "name": "g", "matches": ["m"] * n}]),
    ),
    Counted("TCPRoute", "route_ports", "route-ports", lambda n: {"matches": {"ports": [80 + i % 2 for i in range(n)]}}),
    Counted(
        "TCPRoute",
        "route_ports",
        "route-ports",
        lambda n: {"matches": [{"ports": [1 + i]} for i in range(n)]},
    ),
    Counted(
        "IdentityBinding",
        "identities",
        "identities",
        lambda n: binding(spiffeIdentities=[f"td/ns/shop/sa/{i}" for i in range(n)]),
    ),
    Counted(
        "IdentityBinding",
        "requirements",
        "requirements",
        lambda n: binding(podLabelSelector={"matchLabels": {f"l{i}": "v" for i in range(n)}}),
    ),
    Counted(
        "IdentityBinding",
        "requirements",
        "requirements",
        lambda n: binding(podLabelSelector={"matchExpressions": [{"key": "k", "operator": "In", "values": ["v"] * n}]}),
    ),
    Counted(
        "TrafficSplit",
        "backends",
        "backends",
        lambda n: {"service": "web", "backends": [{"service": f"b{i}", "weight": 1} for i in range(n)]},
    ),
    Counted(
        "TrafficSplit",
        "split_groups",
        "split-groups",
        lambda n: {
            "service": "web",
            "backends": [{"service": "b", "weight": 1}],
            "matches": [{"name": f"g{i}"} for i in range(n)],
        },
    ),
]


def counted_id(one: Counted) -> str:
    return f"{one.kind}-{one.limit}"


@pytest.fixture
def compiled(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Expressions that RE2 compiles from now on."""
    found: list[str] = []
    original = re2.compile

    def counting(pattern: str, options: Any) -> Any:
        found.append(pattern)
        return original(pattern, options)

    monkeypatch.setattr(re2, "compile", counting)
    return found


def read(kind: str, spec: dict[str, Any], budgets: Budgets = DEFAULTS) -> Any:
    return decode(kind, "group/v1alpha4", PolicyObject(META, spec), budgets)


@pytest.mark.parametrize("one", COUNTED, ids=counted_id)
def test_an_object_at_its_limit_passes(one: Counted) -> None:
    spec = one.spec(getattr(DEFAULTS, one.limit))
    outline(one.kind, "group/v1alpha4", PolicyObject(META, spec))


@pytest.mark.parametrize("one", COUNTED, ids=counted_id)
def test_an_object_above_its_limit_is_refused_with_both_figures_before_any_expression_is_compiled(
    one: Counted, compiled: list[str]
) -> None:
    limit = getattr(DEFAULTS, one.limit)
    with pytest.raises(PolicyError) as caught:
        read(one.kind, one.spec(limit + 1))
    assert caught.value.code == f"budget/{one.code}"
    assert f"{limit + 1} " in caught.value.sentence
    assert f"more than {limit};" in caught.value.sentence
    assert compiled == []


@pytest.mark.parametrize("one", COUNTED, ids=counted_id)
def test_each_limit_is_a_setting(one: Counted) -> None:
    narrower = budgets_of([f"{one.limit}=2"])
    with pytest.raises(PolicyError, match="more than 2;"):
        read(one.kind, one.spec(3), narrower)


def test_programs_are_summed_and_nothing_is_compiled_beyond_the_sum(compiled: list[str]) -> None:
    bomb = {"matches": [{"name": str(i), "pathRegex": BOMB.format(i)} for i in range(1000)]}
    with pytest.raises(PolicyError) as caught:
        read("HTTPRouteGroup", bomb)
    assert caught.value.code == "budget/program"
    assert f"more than {DEFAULTS.program};" in caught.value.sentence
    # Each is compiled as written and as Envoy is told: some 1,930 of 50,000.
    assert len(compiled) <= 2 * (DEFAULTS.program // 1900 + 1)


def test_programs_at_the_limit_pass_and_one_more_instruction_does_not() -> None:
    spec = {"matches": [{"pathRegex": "/first/[^/]+"}, {"headers": {"x": "a+"}}]}
    size = regexes.program_size("(?:/first/[^/]+).*") + regexes.program_size("a+")
    read("HTTPRouteGroup", spec, Budgets(program=size))
    with pytest.raises(PolicyError, match=f"size of {size} and more"):
        read("HTTPRouteGroup", spec, Budgets(program=size - 1))


def test_a_specification_is_weighed() -> None:
    spec: dict[str, Any] = {"matches": [], "x": ""}
    spec["x"] = "a" * (DEFAULTS.object_bytes - len(msgspec.json.encode(spec)))
    read("HTTPRouteGroup", spec)
    spec["x"] += "a"
    with pytest.raises(PolicyError, match=f"has {DEFAULTS.object_bytes + 1} bytes") as caught:
        read("HTTPRouteGroup", spec)
    assert caught.value.code == "budget/object-bytes"


@pytest.mark.parametrize(("count", "refused"), [(9_000, "matches"), (20_000, "object-bytes"), (90_000, "object-bytes")])
def test_bombs_of_thousands_of_matches_cost_no_expression(count: int, refused: str, compiled: list[str]) -> None:
    """9,000 took 54 s of everybody's time, 20,000 ten seconds of the webhook's, 90,000 killed it."""
    matches = [{"name": f"m{i}", "pathRegex": BOMB.format(i)} for i in range(count)]
    with pytest.raises(PolicyError) as caught:
        read("HTTPRouteGroup", {"matches": matches}, Budgets(object_bytes=1 << 20 if count == 9_000 else 256 * 1024))
    assert caught.value.code == f"budget/{refused}"
    assert compiled == []


def test_an_expression_that_is_refused_is_compiled_with_little_memory() -> None:
    """With RE2's default it takes 90 ms; the sentence says that it is too large, as before."""
    with pytest.raises(PolicyError, match="too large"):
        read("HTTPRouteGroup", {"matches": [{"pathRegex": r"/\pL{1000}"}]})


def test_an_outline_compiles_nothing(compiled: list[str]) -> None:
    outline("HTTPRouteGroup", "group/v1alpha4", PolicyObject(META, {"matches": [{"pathRegex": "/new(("}]}))
    assert compiled == []


def service(ports: int = 1, selector: int = 1, addresses: int = 1) -> Service:
    return Service(
        META,
        ServiceSpec(
            ports=[ServicePort(port=1 + i) for i in range(ports)],
            selector={f"l{i}": "v" for i in range(selector)},
            cluster_ips=["10.0.0.1"] * addresses,
        ),
    )


def endpoint_slice(endpoints: int = 1, ports: int = 1) -> EndpointSlice:
    return EndpointSlice(
        META,
        endpoints=[SliceEndpoint(addresses=["10.0.0.1"]) for _ in range(endpoints)],
        ports=[SlicePort(port=1 + i) for i in range(ports)],
    )


def pod(labels: int = 1, ports: int = 2) -> Pod:
    halves = [ports // 2, ports - ports // 2]
    containers = [Container("c", [ContainerPort(container_port=1 + i) for i in range(half)]) for half in halves]
    meta = msgspec.structs.replace(META, labels={f"l{i}": "v" for i in range(labels)})
    return Pod(meta, PodSpec(containers=containers))


MADE: list[tuple[str, str, Callable[[int], object]]] = [
    ("service_ports", "service-ports", lambda n: service(ports=n)),
    ("selector", "selector", lambda n: service(selector=n)),
    ("service_addresses", "service-addresses", lambda n: service(addresses=n)),
    ("slice_endpoints", "slice-endpoints", lambda n: endpoint_slice(endpoints=n)),
    ("slice_ports", "slice-ports", lambda n: endpoint_slice(ports=n)),
    ("pod_labels", "pod-labels", lambda n: pod(labels=n)),
    ("pod_ports", "pod-ports", lambda n: pod(ports=n)),
]


@pytest.mark.parametrize(
    ("limit", "code", "made"),
    MADE,
)
def test_objects_that_are_no_policy_are_counted_too(limit: str, code: str, made: Callable[[int], object]) -> None:
    most = getattr(DEFAULTS, limit)
    judge_object(made(most), DEFAULTS)
    with pytest.raises(PolicyError, match=f"has {most + 1} .*, more than {most};") as caught:
        judge_object(made(most + 1), DEFAULTS)
    assert caught.value.code == f"budget/{code}"


@pytest.mark.parametrize("text", ["matches", "matches=", "matches=-1", "matches=1.5", "nonsense=1", "=1", "matches=٣"])
def test_a_setting_that_is_no_limit_is_refused_with_a_sentence(text: str) -> None:
    with pytest.raises(BadInputError) as caught:
        budgets_of([text])
    assert caught.value.sentence


def test_changed_limits_are_told_apart() -> None:
    budgets = budgets_of(["matches=7", " program = 1000"])
    assert changed_from_defaults(budgets) == {"matches": 7, "program": 1000}
    assert changed_from_defaults(DEFAULTS) == {}
