"""Policy is judged before it is stored, by the compiler's own words."""

from __future__ import annotations

import asyncio
import json
import threading
from typing import Any

import msgspec
import pytest

from services.compiler.core.offline import compile_events
from services.compiler.mesh_state import MeshSettings
from services.ingestor.core.projection import project
from services.injector.http.webhook import Webhook
from shared.eventlog.memory import MemoryLog
from shared.records import events
from tests.unit.injector.http.test_webhook import namespace, told, webhook
from tests.unit.shared.test_budgets import BOMB
from tests.waiting import eventually

TARGET: dict[str, Any] = {
    "destination": {"kind": "ServiceAccount", "name": "store", "namespace": "shop"},
    "sources": [{"kind": "ServiceAccount", "name": "buyer", "namespace": "shop"}],
    "rules": [{"kind": "TCPRoute", "name": "any"}],
}
SPLIT: dict[str, Any] = {"service": "web", "backends": [{"service": "web-v1", "weight": 1}]}

BAD: list[tuple[str, str, str, dict[str, Any]]] = [
    ("TrafficTarget", "access.smi-spec.io", "v1alpha3", TARGET | {"sources": []}),
    ("TrafficTarget", "access.smi-spec.io", "v1alpha3", TARGET | {"destination": {"name": "x", "namespace": "other"}}),
    ("TrafficTarget", "access.smi-spec.io", "v9", TARGET),
    ("TrafficSplit", "split.smi-spec.io", "v1alpha2", SPLIT | {"backends": []}),
    ("TrafficSplit", "split.smi-spec.io", "v1alpha2", SPLIT | {"backends": [{"service": "a", "weight": -1}]}),
    ("HTTPRouteGroup", "specs.smi-spec.io", "v1alpha4", {"matches": [{"name": "m", "pathRegex": "("}]}),
    ("TCPRoute", "specs.smi-spec.io", "v1alpha4", {"matches": {"ports": [70000]}}),
]


def manifest(kind: str, group: str, version: str, spec: Any) -> dict[str, Any]:
    meta = {"name": "one", "namespace": "shop", "uid": "u", "resourceVersion": "5"}
    return {"apiVersion": f"{group}/{version}", "kind": kind, "metadata": meta, "spec": spec}


def review(kind: str, group: str, version: str, spec: Any, **changes: Any) -> bytes:
    request = {
        "uid": "u-1",
        "kind": {"group": group, "version": version, "kind": kind},
        "namespace": "shop",
        "name": "one",
        "operation": "CREATE",
        "object": manifest(kind, group, version, spec),
        "oldObject": None,
        **changes,
    }
    return json.dumps({"apiVersion": "admission.k8s.io/v1", "kind": "AdmissionReview", "request": request}).encode()


def judge() -> Webhook:
    return webhook(MemoryLog())[0]


async def answered(body: bytes) -> dict[str, Any]:
    hook = judge()

    class Judging:
        answer = staticmethod(hook.judge)

    return await told(Judging, body)  # type: ignore[arg-type]


@pytest.mark.parametrize("bad", BAD, ids=[f"{kind}-{number}" for number, (kind, *_) in enumerate(BAD)])
async def test_what_the_compiler_would_leave_out_is_refused_with_its_own_sentence(
    bad: tuple[str, str, str, dict[str, Any]],
) -> None:
    response = await answered(review(*bad))
    assert response["allowed"] is False
    kind, group, version, _ = bad
    item = project(kind, json.dumps(manifest(*bad)).encode(), api_version=f"{group}/{version}", source="watch")
    member = events.encode_object(namespace())
    compiled = compile_events(
        [
            _applied("Namespace", "", "shop", member),
            _applied(kind, "shop", "one", msgspec.Raw(item.body), api_version=item.api_version),
        ],
        MeshSettings(cluster="c1"),
    )
    (quarantined,) = compiled.quarantine
    assert response["status"]["message"] == f"meshlog: {kind} shop/one: {quarantined.sentence}"


def _applied(kind: str, place: str, name: str, value: msgspec.Raw, *, api_version: str = "v1") -> events.Event:
    return events.Event(
        schema=1,
        cluster="c1",
        kind=kind,
        namespace=place,
        name=name,
        uid="u",
        resource_version="5",
        operation="applied",
        api_version=api_version,
        object=value,
    )


@pytest.mark.parametrize(
    "good",
    [
        ("TrafficTarget", "access.smi-spec.io", "v1alpha3", TARGET),
        (
            "TrafficSplit",
            "split.smi-spec.io",
            "v1alpha1",
            {"service": "web", "backends": [{"service": "a", "weight": "500m"}]},
        ),
        ("MeshConfig", "config.openservicemesh.io", "v1alpha2", {"traffic": {"enableEgress": True}}),
        ("TCPRoute", "specs.smi-spec.io", "v1alpha3", {}),
    ],
    ids=lambda good: good[0],
)
async def test_what_can_be_compiled_passes(good: tuple[str, str, str, dict[str, Any]]) -> None:
    assert (await answered(review(*good)))["allowed"] is True


async def test_a_mesh_config_that_new_pods_cannot_use_is_refused() -> None:
    body = review("MeshConfig", "config.openservicemesh.io", "v1alpha2", {"sidecar": {"logLevel": "loud"}})
    response = await answered(body)
    assert response["allowed"] is False
    assert "logLevel" in response["status"]["message"]


async def test_a_bad_object_that_is_there_may_be_labelled_and_deleted() -> None:
    kind, group, version, spec = BAD[0]
    before = manifest(kind, group, version, spec)
    same = review(kind, group, version, spec, operation="UPDATE", oldObject=before)
    assert (await answered(same))["allowed"] is True
    assert (await answered(review(kind, group, version, spec, operation="DELETE", object=None)))["allowed"] is True
    worse = review(kind, group, version, spec | {"rules": []}, operation="UPDATE", oldObject=before)
    assert (await answered(worse))["allowed"] is False


@pytest.mark.parametrize("value", [None, 1, [], {}, {"metadata": 7}, {"metadata": {"name": "a"}, "spec": 3}])
async def test_an_object_of_any_shape_gets_a_valid_answer(value: Any) -> None:
    await answered(review("TrafficTarget", "access.smi-spec.io", "v1alpha3", {}, object=value))


async def test_kinds_of_others_pass() -> None:
    assert (await answered(review("TrafficTarget", "example.org", "v1", {})))["allowed"] is True
    assert (await answered(review("Pod", "", "v1", {})))["allowed"] is True


async def test_a_bomb_is_refused_in_the_compilers_words_before_any_expression_is_compiled() -> None:
    """20,000 matches blocked the webhook for ten seconds, four times 90,000 of 5 MB killed it."""
    for count in (20_000, 90_000):
        matches = [{"name": f"m{i}", "pathRegex": BOMB.format(i)} for i in range(count)]
        spec = {"matches": matches}
        answer = await answered(review("HTTPRouteGroup", "specs.smi-spec.io", "v1alpha4", spec))
        assert not answer["allowed"]
        size = len(msgspec.json.encode(spec))
        said = f"has {size} bytes of specification, more than 262144; split it"
        assert said in answer["status"]["message"]


async def test_the_webhook_goes_on_while_it_judges(monkeypatch: pytest.MonkeyPatch) -> None:
    began, go_on = threading.Event(), threading.Event()

    def slow(_question: object, _budgets: object) -> list[str]:
        began.set()
        assert go_on.wait(10)
        return []

    monkeypatch.setattr("services.injector.core.policy_validation.check", slow)
    hook = judge()
    asked = asyncio.ensure_future(hook.judge(review("TCPRoute", "specs.smi-spec.io", "v1alpha4", {})))
    await eventually(began.is_set, within=5, what="it judges")
    assert not asked.done()
    go_on.set()
    assert json.loads(await asked)["response"]["allowed"]


CONFIG = ("MeshConfig", "config.openservicemesh.io", "v1alpha2")


def config_review(spec: Any, *, name: str = "osm-mesh-config", **changes: Any) -> bytes:
    """A review of the mesh's own MeshConfig."""
    body = json.loads(review(*CONFIG, spec, name=name, namespace="meshlog-system", **changes))
    body["request"]["object"]["metadata"].update(name=name, namespace="meshlog-system")
    return json.dumps(body).encode()


@pytest.mark.parametrize(
    ("spec", "says"),
    [
        ({"traffic": {"outboundIPRangeExclusionList": ["300.1.1.1/8"]}}, "'300.1.1.1/8' is no range of addresses"),
        ({"traffic": {"outboundPortExclusionList": [70000]}}, "is no port"),
        ({"traffic": {"networkInterfaceExclusionList": ["a/b"]}}, "is no name of a network interface"),
        ({"sidecar": {"resources": {"limits": {"cpu": "abc"}}}}, "sidecar.resources.limits.cpu is 'abc'"),
        ({"sidecar": {"resources": {"limits": {"cpu": 1}, "requests": {"cpu": "1100m"}}}}, "more than the limit"),
        ({"sidecar": {"resources": {"limits": {"gpu": 1}}}}, "no resource of containers"),
        ({"sidecar": {"maxInboundConnections": 0}}, "cannot be used for new pods"),
        ({"sidecar": {"localProxyMode": "Other"}}, "cannot be used for new pods"),
        ({"certificate": {"certKeyBitSize": 1024}}, "must be one of 2048, 3072, 4096"),
        ({"certificate": {"serviceCertValidityDuration": "5 days"}}, "'5 days' is not a duration"),
        ({"certificate": {"ingressGateway": {"subjectAltNames": ["x"]}}}, "needs subjectAltNames and a secret"),
        ({"sidecar": {"envoyImage": "envoyproxy/envoy-alpine:v1.19.3"}}, "older than Envoy 1.36"),
        ({"sidecar": {"envoyImage": "mcr.microsoft.com/oss/envoyproxy/envoy:v1.22.2"}}, "older than Envoy 1.36"),
        ({"sidecar": {"initContainerImage": "openservicemesh/init:v1.2.4"}}, "lacks the meshlog command"),
        ({"sidecar": {"initContainerImage": "mcr.microsoft.com/oss/openservicemesh/init:v1"}}, "lacks the meshlog"),
    ],
)
async def test_what_new_pods_or_the_ca_could_not_use_is_refused_in_the_readers_words(
    spec: dict[str, Any], says: str
) -> None:
    response = await answered(config_review(spec))
    assert response["allowed"] is False
    assert says in response["status"]["message"]
    assert "MeshConfig meshlog-system/osm-mesh-config" in response["status"]["message"]
    assert "until it is mended" not in response["status"]["message"]


@pytest.mark.parametrize(
    ("spec", "says"),
    [
        ({"sidecar": {"cipherSuites": ["X"]}}, "not supported yet: sidecar.cipherSuites"),
        ({"sidecar": {"envoyImage": "registry.example/proxy@sha256:0"}}, "does not say that it holds Envoy 1.36"),
        ({"sidecar": {"initContainerImage": "registry.example/base:1"}}, "does not say that it holds the meshlog"),
    ],
)
async def test_what_may_not_do_what_is_meant_is_stored_with_a_warning(spec: dict[str, Any], says: str) -> None:
    response = await answered(config_review(spec))
    assert response["allowed"] is True
    (warning,) = response["warnings"]
    assert says in warning


@pytest.mark.parametrize(
    "spec",
    [
        {"traffic": {"enableEgress": True}, "sidecar": {"envoyImage": "envoyproxy/envoy:distroless-v1.40.0"}},
        {"sidecar": {"initContainerImage": "registry.example/meshlog:0.2", "resources": {"limits": {"cpu": "1e-1"}}}},
        {"certificate": {"certKeyBitSize": 2048, "serviceCertValidityDuration": "24h"}},
    ],
)
async def test_what_works_is_stored_without_a_word(spec: dict[str, Any]) -> None:
    response = await answered(config_review(spec))
    assert (response["allowed"], response.get("warnings")) == (True, None)


async def test_a_kind_without_effect_and_a_mesh_config_of_another_name_are_warned_of() -> None:
    response = await answered(review("Egress", "policy.openservicemesh.io", "v1alpha1", {"hosts": ["x"]}))
    assert response["warnings"] == [
        "Egress shop/one: this kind is not supported yet: it is kept and has no effect",
    ]
    response = await answered(config_review({}, name="other"))
    assert "is not in force: the mesh's is MeshConfig meshlog-system/osm-mesh-config" in response["warnings"][0]


async def test_a_deletion_of_the_mesh_config_says_what_is_in_force_then() -> None:
    body = json.loads(review(*CONFIG, {}, name="osm-mesh-config", namespace="meshlog-system", operation="DELETE"))
    body["request"].update(object=None, oldObject=manifest(*CONFIG, {}))
    response = await answered(json.dumps(body).encode())
    assert response["allowed"] is True
    assert "the defaults are in force, and what no TrafficTarget allows is denied" in response["warnings"][0]
    body["request"].update(name="other")
    assert "warnings" not in await answered(json.dumps(body).encode())
