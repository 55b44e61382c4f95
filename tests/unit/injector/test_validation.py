"""Policy is judged before it is stored, by the compiler's own words."""

from __future__ import annotations

import asyncio
import json
import threading
from typing import Any

import msgspec
import pytest

from services.compiler.mesh import MeshSettings
from services.compiler.offline import compile_events
from services.ingestor.projection import project
from services.injector.webhook import Webhook
from shared import events
from shared.eventlog.memory import MemoryLog
from tests.unit.injector.test_webhook import namespace, told, webhook
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

    def slow(_question: object, _budgets: object) -> None:
        began.set()
        assert go_on.wait(10)

    monkeypatch.setattr("services.injector.validation.check", slow)
    hook = judge()
    asked = asyncio.ensure_future(hook.judge(review("TCPRoute", "specs.smi-spec.io", "v1alpha4", {})))
    await eventually(began.is_set, within=5, what="it judges")
    assert not asked.done()
    go_on.set()
    assert json.loads(await asked)["response"]["allowed"]
