"""Reviews in, reviews out: always valid, always about the same uid, no failure of ours (faults 65, 67)."""

from __future__ import annotations

import asyncio
import base64
import json
from typing import Any

import msgspec
import pytest

from services.injector.core import review
from services.injector.http.webhook import Webhook
from services.injector.log.namespace_follower import NamespaceFollower
from shared import projected_objects as projected
from shared.errors import BadInputError
from shared.eventlog.memory import MemoryLog
from shared.eventlog.protocol import Draft
from shared.records import events
from shared.records.subjects import Streams
from tests.unit.injector.pods import INSTALLATION, MEMBER, pod
from tests.waiting import eventually

STREAMS = Streams()


def asked(value: Any = None, **changes: Any) -> bytes:
    request = {
        "uid": "u-1",
        "kind": {"group": "", "version": "v1", "kind": "Pod"},
        "namespace": "shop",
        "operation": "CREATE",
        "dryRun": True,
        "object": pod() if value is None else value,
        **changes,
    }
    return json.dumps({"apiVersion": "admission.k8s.io/v1", "kind": "AdmissionReview", "request": request}).encode()


async def write(log: MemoryLog, kind: str, namespace: str, name: str, value: Any, *, epoch: str = "") -> None:
    event = events.Event(
        schema=1,
        cluster="c1",
        kind=kind,
        namespace=namespace,
        name=name,
        uid="u",
        resource_version="1",
        operation="applied" if value is not None else "deleted",
        object=events.encode_object(value) if value is not None else None,
    )
    scope = STREAMS.cluster_scope("c1")
    tip = await log.tip(scope)
    draft = Draft(subject=event.subject(STREAMS), payload=events.encode(event))
    await log.append([draft], scope=scope, after=tip, epoch=epoch or ("" if tip.epoch else "e1"))


def namespace(name: str = "shop") -> projected.Namespace:
    meta = projected.Meta(name=name, labels=dict(MEMBER.labels), annotations=dict(MEMBER.annotations))
    return projected.Namespace(metadata=meta)


def membership(log: MemoryLog) -> NamespaceFollower:
    return NamespaceFollower(log, streams=STREAMS, cluster="c1", mesh_namespace="meshlog-system")


def webhook(log: MemoryLog, patience: float = 0.05) -> tuple[Webhook, NamespaceFollower]:
    known = membership(log)
    return Webhook(known, INSTALLATION, patience=patience), known


async def told(hook: Webhook, body: bytes) -> dict[str, Any]:
    answer = json.loads(await hook.answer(body))
    assert answer["kind"] == "AdmissionReview"
    assert answer["apiVersion"].startswith("admission.k8s.io/")
    assert answer["response"]["uid"] == "u-1"
    return answer["response"]


@pytest.fixture
async def log() -> MemoryLog:
    made = MemoryLog()
    await write(made, "Namespace", "", "shop", namespace())
    return made


async def test_a_pod_of_a_member_is_given_its_sidecar(log: MemoryLog) -> None:
    hook, known = webhook(log)
    task = asyncio.create_task(known.run())
    response = await told(hook, asked())
    task.cancel()
    assert response["allowed"] is True
    operations = json.loads(base64.b64decode(response["patch"]))
    assert {each["path"] for each in operations} >= {"/spec/initContainers", "/spec/volumes"}


async def test_a_namespace_that_the_log_has_a_moment_later_is_waited_for(log: MemoryLog) -> None:
    hook, known = webhook(log, patience=5.0)
    task = asyncio.create_task(known.run())
    await known.caught_up.wait()
    asking = asyncio.create_task(told(hook, asked(namespace="late")))
    await asyncio.sleep(0)
    await write(log, "Namespace", "", "late", namespace("late"))
    assert (await asking)["allowed"] is True
    task.cancel()


async def test_a_namespace_that_the_log_never_has_is_refused_for_now(log: MemoryLog) -> None:
    hook, _ = webhook(log)
    response = await told(hook, asked(namespace="nowhere"))
    assert response["allowed"] is False
    assert response["status"]["code"] == 503
    assert "try again" in response["status"]["message"]


async def test_what_cannot_be_injected_is_refused_with_a_sentence(log: MemoryLog) -> None:
    hook, known = webhook(log)
    task = asyncio.create_task(known.run())
    bad = pod(**{projected.ANNOTATION_INJECTION: "perhaps"})
    response = await told(hook, asked(bad))
    task.cancel()
    assert response["allowed"] is False
    assert response["status"]["message"].startswith("meshlog: the pod: annotation")


@pytest.mark.parametrize(
    "changes",
    [
        {"kind": {"group": "", "version": "v1", "kind": "Service"}},
        {"kind": {"group": "x", "version": "v1", "kind": "Pod"}},
        {"operation": "UPDATE"},
        {"subResource": "eviction"},
        {"object": None, "operation": "DELETE"},
    ],
)
async def test_what_is_no_new_pod_passes_unchanged(log: MemoryLog, changes: dict[str, Any]) -> None:
    response = await told(webhook(log)[0], asked(**changes))
    assert response == {"uid": "u-1", "allowed": True}


@pytest.mark.parametrize(
    "value",
    [
        {},
        [],
        7,
        "pod",
        {"spec": None},
        {"spec": {}},
        {"spec": {"containers": [7]}},
        {"spec": {"containers": [{}]}},
        {"spec": {"containers": [{"name": 7}]}},
        {"spec": {"containers": [{"name": "a", "ports": [{"containerPort": "x"}]}]}},
        {"spec": {"containers": [{"name": "a", "ports": {"containerPort": 1}}]}},
        {"spec": {"containers": [{"name": "a", "livenessProbe": []}]}},
        {"spec": {"containers": [{"name": "a", "readinessProbe": {"httpGet": "x"}}]}},
        {"spec": {"containers": [], "initContainers": {}}},
        {"spec": {"containers": [], "volumes": ["v"]}},
        {"metadata": {"annotations": ["a"]}, "spec": {"containers": []}},
        {"metadata": {"annotations": {"a": 1}}, "spec": {"containers": []}},
        {"metadata": [], "spec": {}},
        {"spec": {"containers": "x"}},
    ],
)
async def test_65_a_pod_of_any_shape_gets_a_valid_answer(log: MemoryLog, value: Any) -> None:
    hook, known = webhook(log)
    task = asyncio.create_task(known.run())
    response = await told(hook, asked(value))
    task.cancel()
    assert response["allowed"] is False
    assert "is no pod" in response["status"]["message"]


@pytest.mark.parametrize("version", ["admission.k8s.io/v1", "admission.k8s.io/v1beta1"])
def test_65_the_answer_is_of_the_version_of_the_question(version: str) -> None:
    question = review.read(asked().replace(b"admission.k8s.io/v1", version.encode()))
    assert json.loads(review.allow(question))["apiVersion"] == version


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"{}",
        b"[]",
        b"\xff",
        b'{"request":{"uid":""}}',
        b'{"apiVersion":"v9","request":{"uid":"u"}}',
        b"[" * 100_000,
        b"null",
        b"7",
        b'"review"',
        b'{"request":null}',
        b'{"request":[]}',
        b'{"request":{}}',
        b'{"request":{"uid":7}}',
        b'{"request":{"uid":null}}',
        b'{"request":{"uid":"u","kind":"Pod"}}',
        b'{"request":{"uid":"u","namespace":["shop"]}}',
        b'{"request":{"uid":"u","object":{}}',
        b'{"request":{"uid":"u"}} trailing',
        b'{"request":{"uid":"\xed\xa0\x80"}}',
        b'{"request":{"uid":"u","object":NaN}}',
        b'{"a":' * 100_000,
        b'{"apiVersion":null,"request":{"uid":"u"}}',
    ],
)
def test_65_what_is_no_review_is_bad_input(body: bytes) -> None:
    with pytest.raises(BadInputError):
        review.read(body)


async def test_the_state_follows_the_log_and_a_new_epoch_voids_it(log: MemoryLog) -> None:
    known = membership(log)
    task = asyncio.create_task(known.run())
    await known.caught_up.wait()
    config = projected.PolicyObject(
        metadata=projected.Meta(name="osm-mesh-config"), spec={"sidecar": {"logLevel": "debug"}}
    )
    await write(log, "MeshConfig", "meshlog-system", "osm-mesh-config", config)
    await eventually(lambda: known.mesh.sidecar.log_level == "debug", within=5.0, what="the MeshConfig is read")
    bad = msgspec.structs.replace(config, spec={"sidecar": 7})
    await write(log, "MeshConfig", "meshlog-system", "osm-mesh-config", bad)
    await write(log, "MeshConfig", "elsewhere", "osm-mesh-config", bad)
    await write(log, "Namespace", "", "other", namespace("other"))
    await eventually(lambda: "other" in known.namespaces, within=5.0, what="the namespace is read")
    assert known.mesh.sidecar.log_level == "debug"
    await write(log, "Namespace", "", "third", namespace("third"), epoch="e2")
    await eventually(lambda: set(known.namespaces) == {"third"}, within=5.0, what="the epoch begins anew")
    assert known.mesh.sidecar.log_level == "error"
    task.cancel()


async def test_an_image_that_was_stored_all_the_same_is_not_put_into_a_pod_and_its_author_is_told(
    log: MemoryLog,
) -> None:
    """A MeshConfig of Open Service Mesh may have been stored while no injector ran."""
    spec = {"sidecar": {"initContainerImage": "openservicemesh/init:v1.2.4", "envoyImage": "envoyproxy/envoy:v1.19.1"}}
    config = projected.PolicyObject(metadata=projected.Meta(name="osm-mesh-config"), spec=spec)
    await write(log, "MeshConfig", "meshlog-system", "osm-mesh-config", config)
    hook, known = webhook(log)
    task = asyncio.create_task(known.run())
    await known.caught_up.wait()
    response = await told(hook, asked())
    task.cancel()
    assert response["allowed"] is True
    assert len([one for one in response["warnings"] if one.endswith("the default image is used")]) == 2
    (added,) = [
        one["value"] for one in json.loads(base64.b64decode(response["patch"])) if one["path"] == "/spec/initContainers"
    ]
    images = {one["name"]: one["image"] for one in added}
    assert (images["meshlog-init"], images["envoy"]) == (INSTALLATION.init_image, INSTALLATION.envoy_image)
