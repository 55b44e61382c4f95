"""Policy of every version reads into one model; what cannot be read is refused under a stable code."""

from __future__ import annotations

from typing import Any

import pytest

from shared.policy.decode import decode
from shared.policy.errors import PolicyError
from shared.policy.model import Backend, MeshConfig, RouteGroup, TcpRoute, TrafficSplit, TrafficTarget
from shared.policy.object_name import ObjectName
from shared.projected_objects import Meta, PolicyObject

ACCOUNT = {"kind": "ServiceAccount", "name": "web", "namespace": "shop"}
CALLER = {"kind": "ServiceAccount", "name": "buyer", "namespace": "buy"}
RULE = {"kind": "HTTPRouteGroup", "name": "routes", "matches": ["get"]}


def read(kind: str, spec: dict[str, Any], version: str = "v1alpha4") -> Any:
    return decode(kind, f"group/{version}", PolicyObject(Meta(name="x", namespace="shop"), spec))


def refusal(kind: str, spec: dict[str, Any], version: str = "v1alpha4") -> str:
    with pytest.raises(PolicyError) as caught:
        read(kind, spec, version)
    assert caught.value.sentence
    return caught.value.code


def target(**changes: Any) -> dict[str, Any]:
    spec: dict[str, Any] = {"destination": ACCOUNT, "sources": [CALLER], "rules": [RULE]}
    return {key: value for key, value in {**spec, **changes}.items() if value is not None}


@pytest.mark.parametrize("version", ["v1alpha1", "v1alpha2", "v1alpha3", "v1alpha4"])
def test_a_traffic_target_reads_the_same_in_every_version(version: str) -> None:
    spec = target() if version != "v1alpha1" else target(rules=None, specs=[RULE])
    found: TrafficTarget = read("TrafficTarget", spec, version)
    assert found.destination == ObjectName("shop", "web")
    assert found.sources == (ObjectName("buy", "buyer"),)
    assert (found.rules[0].name, found.rules[0].matches) == ("routes", ("get",))


@pytest.mark.parametrize("port", [8080, "8080"])
def test_the_port_of_early_versions_is_a_number_or_a_text(port: object) -> None:
    assert read("TrafficTarget", target(destination={**ACCOUNT, "port": port})).port == 8080


@pytest.mark.parametrize(
    ("changes", "code"),
    [
        ({"destination": None}, "smi/target-destination"),
        ({"destination": {**ACCOUNT, "namespace": "other"}}, "smi/target-namespace"),
        ({"destination": {**ACCOUNT, "kind": "Service"}}, "smi/subject-kind"),
        ({"destination": {**ACCOUNT, "name": "No/Name"}}, "smi/name"),
        ({"destination": {**ACCOUNT, "port": 70000}}, "smi/port"),
        ({"destination": "web"}, "smi/shape"),
        ({"sources": []}, "smi/target-sources"),
        ({"sources": None}, "smi/target-sources"),
        ({"sources": [{"kind": "Group", "name": "x"}]}, "smi/subject-kind"),
        ({"sources": ["buyer"]}, "smi/shape"),
        ({"rules": []}, "smi/target-rules"),
        ({"rules": None}, "smi/target-rules"),
        ({"rules": [{"kind": "GRPCRoute", "name": "x"}]}, "smi/rule-kind"),
        ({"rules": {"kind": "TCPRoute"}}, "smi/shape"),
    ],
)
def test_a_traffic_target_with_one_thing_wrong_is_refused(changes: dict[str, Any], code: str) -> None:
    assert refusal("TrafficTarget", target(**changes)) == code


def test_a_version_that_nobody_published_is_refused() -> None:
    assert refusal("TrafficTarget", target(), "v2") == "smi/version"


@pytest.mark.parametrize(
    "headers", [{"Host": "a.*", "x-a": "b"}, [{"x-a": "b"}, {"host": "a.*"}]], ids=["mapping", "list of mappings"]
)
def test_headers_read_the_same_in_every_version(headers: object) -> None:
    found: RouteGroup = read("HTTPRouteGroup", {"matches": [{"name": "a", "headers": headers}]})
    assert found.matches[0].headers == (("host", "a.*"), ("x-a", "b"))


@pytest.mark.parametrize(
    ("methods", "expected"), [(["get", "POST"], ("GET", "POST")), (["GET", "*"], ()), ([], ()), (None, ())]
)
def test_methods_are_upper_case_and_a_star_is_any(methods: object, expected: tuple[str, ...]) -> None:
    assert read("HTTPRouteGroup", {"matches": [{"name": "a", "methods": methods}]}).matches[0].methods == expected


@pytest.mark.parametrize(
    ("match", "code"),
    [
        ({"pathRegex": "("}, "smi/regex"),
        ({"pathRegex": "/\\x{3b1}"}, "smi/regex"),
        ({"pathRegex": "(?=x)"}, "smi/regex"),
        ({"pathRegex": "a{1000}{1000}"}, "smi/regex"),
        ({"pathRegex": "(((a{30}){30}){30})"}, "smi/regex"),
        ({"pathRegex": "a" * 100_000}, "smi/regex"),
        ({"pathRegex": "/a\n"}, "smi/regex"),
        ({"pathRegex": "a)(b"}, "smi/regex"),
        ({"pathRegex": 7}, "smi/shape"),
        ({"headers": {"bad name": "x"}}, "smi/header"),
        ({"headers": {":method": "x"}}, "smi/header"),
        ({"headers": {"A": "x", "a": "y"}}, "smi/header"),
        ({"headers": {"a": 1}}, "smi/header"),
        ({"headers": {"a": "["}}, "smi/regex"),
        ({"methods": ["GET /"]}, "smi/method"),
        ({"methods": [1]}, "smi/shape"),
        ("text", "smi/shape"),
    ],
)
def test_a_match_that_envoy_would_refuse_is_refused_before(match: object, code: str) -> None:
    good = {"name": "good", "pathRegex": "/"}
    bad = {"name": "bad", **match} if isinstance(match, dict) else match
    assert refusal("HTTPRouteGroup", {"matches": [good, bad]}) == code


@pytest.mark.parametrize(
    ("spec", "ports"),
    [
        ({}, ()),
        ({"matches": {}}, ()),
        ({"matches": {"ports": []}}, ()),
        ({"matches": {"ports": [81, "80"]}}, (80, 81)),
        ({"matches": [{"ports": [1]}, {"ports": [2]}]}, (1, 2)),
        ({"matches": [{"ports": [1]}, {}]}, ()),
    ],
)
def test_a_tcp_route_without_ports_means_all(spec: dict[str, Any], ports: tuple[int, ...]) -> None:
    assert read("TCPRoute", spec) == TcpRoute(ports=ports)


@pytest.mark.parametrize("port", [0, 65536, -1, True, "x", 1.5, None])
def test_a_port_that_is_none_is_refused(port: object) -> None:
    assert refusal("TCPRoute", {"matches": {"ports": [port]}}) == "smi/port"


@pytest.mark.parametrize(
    ("weights", "expected"),
    [([90, 10], [90, 10]), (["1", "500m"], [1000, 500]), ([1000, 500], [1000, 500]), ([0, "0"], [0, 0])],
)
def test_weights_are_numbers_or_quantities_and_relative(weights: list[object], expected: list[int]) -> None:
    backends = [{"service": f"s{index}", "weight": weight} for index, weight in enumerate(weights)]
    found: TrafficSplit = read("TrafficSplit", {"service": "root", "backends": backends}, "v1alpha1")
    assert list(found.backends) == [Backend(f"s{index}", weight) for index, weight in enumerate(expected)]


def test_shares_that_add_up_to_more_than_envoy_takes_are_divided_by_what_they_have_in_common() -> None:
    backends = [{"service": f"s{index}", "weight": 1_000_000} for index in range(5)]
    found = read("TrafficSplit", {"service": "root", "backends": [*backends, {"service": "half", "weight": "500m"}]})
    assert [backend.weight for backend in found.backends] == [2_000_000] * 5 + [1]


def test_shares_that_no_divisor_makes_small_enough_are_refused() -> None:
    backends = [{"service": f"s{index}", "weight": 1_000_000} for index in range(5)]
    spec = {"service": "root", "backends": [*backends, {"service": "crumb", "weight": "1m"}]}
    assert refusal("TrafficSplit", spec) == "smi/split-weight"


@pytest.mark.parametrize("weight", [-1, 1_000_001, "x", None, True, 1.00001, "NaN", "1e99", "9" * 30, [1]])
def test_a_weight_that_is_none_is_refused(weight: object) -> None:
    spec = {"service": "root", "backends": [{"service": "a", "weight": weight}]}
    assert refusal("TrafficSplit", spec) == "smi/split-weight"


@pytest.mark.parametrize("root", ["root", "root.shop", "root.shop.svc.cluster.local"])
def test_a_root_may_be_written_as_a_host_name(root: str) -> None:
    assert read("TrafficSplit", {"service": root, "backends": [{"service": "a", "weight": 1}]}).root == "root"


@pytest.mark.parametrize(
    ("spec", "code"),
    [
        ({"service": "root.other", "backends": [{"service": "a", "weight": 1}]}, "smi/split-namespace"),
        ({"service": "root", "backends": [{"service": "a.other", "weight": 1}]}, "smi/split-namespace"),
        ({"service": "root", "backends": []}, "smi/split-backend"),
        ({"service": "root", "backends": [{"service": "a", "weight": 1}] * 2}, "smi/split-backend"),
        ({"backends": [{"service": "a", "weight": 1}]}, "smi/shape"),
        ({"service": "root", "backends": [{"service": "a", "weight": 1}], "matches": [{"name": 3}]}, "smi/shape"),
    ],
)
def test_a_split_with_one_thing_wrong_is_refused(spec: dict[str, Any], code: str) -> None:
    assert refusal("TrafficSplit", spec) == code


def test_the_mesh_config_tells_the_modes() -> None:
    spec = {"traffic": {"enablePermissiveTrafficPolicyMode": True, "enableEgress": False}}
    assert read("MeshConfig", spec) == MeshConfig(permissive=True, egress=False)
    assert read("MeshConfig", {}) == MeshConfig()
    assert refusal("MeshConfig", {"traffic": {"enableEgress": "yes"}}) == "mesh/config"


def test_the_mesh_config_tells_how_requests_are_read() -> None:
    spec = {"traffic": {"escapedSlashes": "Keep", "trustedForwarders": ["edge/gateway", "a/b"]}}
    forwarders = (ObjectName("a", "b"), ObjectName("edge", "gateway"))
    assert read("MeshConfig", spec) == MeshConfig(escaped_slashes="keep", forwarders=forwarders)


@pytest.mark.parametrize(
    "traffic",
    [
        {"escapedSlashes": "kept"},
        {"escapedSlashes": True},
        {"trustedForwarders": "edge/gateway"},
        {"trustedForwarders": ["gateway"]},
        {"trustedForwarders": ["edge/gate\nway"]},
        {"trustedForwarders": ["edge/gate/way"]},
        {"trustedForwarders": [7]},
        {"trustedForwarders": [f"edge/gateway-{number}" for number in range(17)]},
    ],
)
def test_a_mesh_config_that_reads_requests_in_no_known_way_is_refused(traffic: dict[str, Any]) -> None:
    assert refusal("MeshConfig", {"traffic": traffic}) in {"mesh/config", "smi/shape"}
