"""Admission webhooks: real HTTPS servers, asked as Kubernetes asks."""

from __future__ import annotations

import base64
import datetime as dt
import json
from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest
from aiohttp import web

from deploy.devcluster.apiserver import ApiServer
from deploy.devcluster.apiserver.access.cluster_ca import ClusterCa
from deploy.devcluster.cluster_api import KubeApiError, Obj
from tests.unit.devcluster_api.objects import config_map, pod

MUTATING = "mutatingwebhookconfigurations.admissionregistration.k8s.io"
VALIDATING = "validatingwebhookconfigurations.admissionregistration.k8s.io"
NAME = "hook.mesh.svc"


class Hook:
    """A webhook server; `answer` makes the response of a request."""

    def __init__(self) -> None:
        self.requests: list[dict[str, Any]] = []
        self.answer: Callable[[dict[str, Any]], dict[str, Any]] = lambda _request: {"allowed": True}
        self.raw: bytes | None = None
        self.ca = ClusterCa(dt.datetime.now(tz=dt.UTC))
        self.port = 0

    async def handle(self, request: web.Request) -> web.Response:
        """Answer one review."""
        review = json.loads(await request.read())
        self.requests.append(review["request"])
        if self.raw is not None:
            return web.Response(body=self.raw)
        response = {"uid": review["request"]["uid"], **self.answer(review["request"])}
        return web.json_response({"apiVersion": "admission.k8s.io/v1", "kind": "AdmissionReview", "response": response})

    def configuration(self, *, mutating: bool = True, ca: ClusterCa | None = None, **fields: Any) -> Obj:
        """A configuration that asks this server about pods."""
        bundle = base64.b64encode((ca or self.ca).pem.encode()).decode()
        one = {
            "name": "pods.example.org",
            "sideEffects": "None",
            "admissionReviewVersions": ["v1"],
            "clientConfig": {
                "service": {"namespace": "mesh", "name": "hook", "path": "/mutate"},
                "caBundle": bundle,
            },
            "rules": [
                {
                    "operations": ["CREATE"],
                    "apiGroups": [""],
                    "apiVersions": ["v1"],
                    "resources": ["pods"],
                }
            ],
            **fields,
        }
        kind = "MutatingWebhookConfiguration" if mutating else "ValidatingWebhookConfiguration"
        return {
            "apiVersion": "admissionregistration.k8s.io/v1",
            "kind": kind,
            "metadata": {"name": "h"},
            "webhooks": [one],
        }


def patching(*operations: Any) -> dict[str, Any]:
    """An allowing response with a patch."""
    patch = base64.b64encode(json.dumps(operations).encode()).decode()
    return {"allowed": True, "patchType": "JSONPatch", "patch": patch}


@pytest.fixture
async def hook() -> AsyncIterator[Hook]:
    made = Hook()
    application = web.Application()
    application.router.add_post("/mutate", made.handle)
    runner = web.AppRunner(application)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0, ssl_context=made.ca.server_context([NAME])).start()
    made.port = runner.addresses[0][1]
    yield made
    await runner.cleanup()


@pytest.fixture
async def api(hook: Hook) -> AsyncIterator[ApiServer]:
    async def resolve(namespace: str, name: str, port: int) -> tuple[str, int]:
        assert (namespace, name, port) == ("mesh", "hook", 443)
        return "127.0.0.1", hook.port

    server = ApiServer(resolve_service=resolve)
    await server.start()
    yield server
    await server.stop()


async def test_a_pod_is_mutated_before_it_is_stored(api: ApiServer, hook: Hook) -> None:
    sidecar = {"name": "envoy", "image": "envoy", "restartPolicy": "Always"}
    hook.answer = lambda _request: patching(
        {"op": "add", "path": "/spec/initContainers", "value": [sidecar]},
        {"op": "add", "path": "/metadata/annotations", "value": {"meshlog.io/sidecar": "1"}},
        {"op": "replace", "path": "/metadata/uid", "value": "forged"},
    )
    await api.cluster.create(MUTATING, hook.configuration())
    made = await api.cluster.create("pods", pod())
    assert made["spec"]["initContainers"][0]["terminationMessagePath"], "what was added is filled in, too"
    assert made["metadata"]["annotations"] == {"meshlog.io/sidecar": "1"}
    assert made["metadata"]["uid"] != "forged"


async def test_the_request_says_what_kubernetes_says(api: ApiServer, hook: Hook) -> None:
    await api.cluster.create(MUTATING, hook.configuration())
    await api.cluster.create("pods", pod())
    request = hook.requests[0]
    assert request["kind"] == {"group": "", "version": "v1", "kind": "Pod"}
    assert request["resource"] == {"group": "", "version": "v1", "resource": "pods"}
    assert (request["operation"], request["namespace"], request["name"]) == ("CREATE", "default", "p")
    assert (request["oldObject"], request["dryRun"]) == (None, False)
    assert request["userInfo"]["username"] == "system:devcluster"
    assert request["object"]["kind"] == "Pod"


async def test_a_denial_reaches_the_client_in_the_webhooks_words(api: ApiServer, hook: Hook) -> None:
    hook.answer = lambda _request: {"allowed": False, "status": {"code": 422, "message": "not like this"}}
    await api.cluster.create(VALIDATING, hook.configuration(mutating=False))
    with pytest.raises(KubeApiError) as refusal:
        await api.cluster.create("pods", pod())
    assert refusal.value.status == 422
    assert refusal.value.sentence == 'admission webhook "pods.example.org" denied the request: not like this'
    assert await api.cluster.get("pods", "default", "p") is None


@pytest.mark.parametrize(
    ("fields", "asked"),
    [
        ({"namespaceSelector": {"matchLabels": {"mesh": "on"}}}, False),
        ({"namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": "default"}}}, True),
        ({"objectSelector": {"matchLabels": {"app": "a"}}}, True),
        ({"objectSelector": {"matchExpressions": [{"key": "app", "operator": "DoesNotExist"}]}}, False),
        ({"rules": [{"operations": ["*"], "apiGroups": ["*"], "apiVersions": ["*"], "resources": ["*/*"]}]}, True),
        ({"rules": [{"operations": ["UPDATE"], "apiGroups": [""], "apiVersions": ["v1"], "resources": ["pods"]}]},
         False),
        ({"rules": [{"operations": ["CREATE"], "apiGroups": [""], "apiVersions": ["v1"], "resources": ["*/status"]}]},
         False),
        ({"rules": [{"operations": ["CREATE"], "apiGroups": [""], "apiVersions": ["v1"], "resources": ["pods"],
                     "scope": "Cluster"}]}, False),
    ],
)  # fmt: skip
async def test_only_what_its_rules_and_selectors_name_is_asked_about(
    api: ApiServer, hook: Hook, fields: dict[str, Any], *, asked: bool
) -> None:
    await api.cluster.create(MUTATING, hook.configuration(**fields))
    await api.cluster.create("pods", pod())
    assert bool(hook.requests) is asked


async def test_an_unreachable_webhook_fails_closed_or_open_as_it_says(api: ApiServer, hook: Hook) -> None:
    hook.port = 1
    await api.cluster.create(MUTATING, hook.configuration())
    with pytest.raises(KubeApiError) as refusal:
        await api.cluster.create("pods", pod())
    assert refusal.value.status == 500
    assert 'failed calling webhook "pods.example.org"' in refusal.value.sentence
    await api.cluster.create("configmaps", config_map())
    await api.cluster.patch(MUTATING, "", "h", {"webhooks": [{**hook.configuration()["webhooks"][0],
                                                              "failurePolicy": "Ignore"}]})  # fmt: skip
    assert await api.cluster.create("pods", pod())


async def test_a_webhook_with_another_authority_is_not_believed(api: ApiServer, hook: Hook) -> None:
    await api.cluster.create(MUTATING, hook.configuration(ca=ClusterCa(dt.datetime.now(tz=dt.UTC))))
    with pytest.raises(KubeApiError, match="certificate"):
        await api.cluster.create("pods", pod())
    assert hook.requests == []


@pytest.mark.parametrize(
    "raw",
    [b"", b"{", b"[]", b"{}", b'{"response":5}', b'{"response":{"uid":"other","allowed":true}}', b"\xff" * 10],
)
async def test_an_answer_that_is_none_is_a_failure(api: ApiServer, hook: Hook, raw: bytes) -> None:
    hook.raw = raw
    await api.cluster.create(MUTATING, hook.configuration())
    with pytest.raises(KubeApiError, match="failed calling webhook"):
        await api.cluster.create("pods", pod())


@pytest.mark.parametrize(
    "response",
    [
        {"allowed": True, "patchType": "JSONPatch", "patch": "!!"},
        {"allowed": True, "patch": base64.b64encode(b"[]").decode()},
        patching({"op": "remove", "path": "/nothing"}),
        patching({"op": "replace", "path": "", "value": 5}),
    ],
)
async def test_a_patch_that_cannot_be_used_is_a_failure(api: ApiServer, hook: Hook, response: dict[str, Any]) -> None:
    hook.answer = lambda _request: response
    await api.cluster.create(MUTATING, hook.configuration())
    with pytest.raises(KubeApiError) as refusal:
        await api.cluster.create("pods", pod())
    assert refusal.value.status == 500
    assert "pods.example.org" in refusal.value.sentence


async def test_what_a_webhook_makes_is_checked_again(api: ApiServer, hook: Hook) -> None:
    hook.answer = lambda _request: patching({"op": "replace", "path": "/spec/containers", "value": []})
    await api.cluster.create(MUTATING, hook.configuration())
    with pytest.raises(KubeApiError, match=r"spec\.containers: Required value"):
        await api.cluster.create("pods", pod())


async def test_a_write_beside_a_slow_webhook_is_not_lost(api: ApiServer, hook: Hook) -> None:
    """While the webhook is asked, the object changes: the patch is made again on the newer one."""
    rules = [{"operations": ["UPDATE"], "apiGroups": [""], "apiVersions": ["v1"], "resources": ["configmaps"]}]
    selector = {"matchLabels": {"slow": "yes"}}
    await api.cluster.create(MUTATING, hook.configuration(rules=rules, objectSelector=selector))
    await api.cluster.create("configmaps", config_map(a="1"))

    def meddle(_request: dict[str, Any]) -> dict[str, Any]:
        if len(hook.requests) == 1:
            stored = api.store.get("configmaps", "default", "m")
            assert stored is not None
            from deploy.devcluster.apiserver.object_store import ObjectWrite

            obj = stored.copy()
            obj["data"]["b"] = "2"
            api.store.commit([ObjectWrite("configmaps", ("default", "m"), obj)])
        return {"allowed": True}

    hook.answer = meddle
    made = await api.cluster.patch(
        "configmaps", "default", "m", {"metadata": {"labels": {"slow": "yes"}}, "data": {"c": "3"}}
    )
    assert made["data"] == {"a": "1", "b": "2", "c": "3"}
    assert len(hook.requests) == 2
