"""A write of `status` checks the status alone, and gives what checking the whole object gives."""

from __future__ import annotations

from typing import Any

import pytest

from deploy.devcluster.apiserver import ApiServer
from deploy.devcluster.apiserver.kinds.object_validation import conform, conform_status
from deploy.devcluster.apiserver.kinds.schema import clone
from deploy.devcluster.apiserver.status_errors import StatusError
from deploy.devcluster.cluster_api import Obj
from tests.unit.devcluster_api.objects import config_map, definition, deployment, pod, thing

SERVICE: Obj = {
    "apiVersion": "v1",
    "kind": "Service",
    "metadata": {"name": "s", "namespace": "default"},
    "spec": {"ports": [{"port": 80}], "selector": {"app": "a"}},
}
CLAIM: Obj = {
    "apiVersion": "v1",
    "kind": "PersistentVolumeClaim",
    "metadata": {"name": "c", "namespace": "default"},
    "spec": {"accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": "1Gi"}}},
}
NAMESPACE: Obj = {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "n"}}
OBJECTS = {
    "pods": pod(volumes=[{"name": "v"}]),
    "deployments.apps": deployment(),
    "services": SERVICE,
    "persistentvolumeclaims": CLAIM,
    "namespaces": NAMESPACE,
}
STATUSES: tuple[Any, ...] = (
    None,
    {},
    {"phase": "Running"},
    {"replicas": 1, "conditions": [{"type": "Available", "status": "True"}]},
    {"capacity": {"storage": "1Gi"}},
    {"phase": 5},
    {"replicas": "many"},
    {"capacity": {"storage": "much"}},
    {"conditions": "none"},
    {"nonsense": 1, "conditions": [{"type": "Ready", "status": "True", "more": 2}]},
    [],
    "ready",
)


def outcome(check: Any, kind: Any, version: Any, obj: Obj, validation: str) -> tuple[Any, list[str]]:
    warnings: list[str] = []
    try:
        return check(kind, version, obj, validation=validation, warnings=warnings), warnings
    except StatusError as refusal:
        return refusal.body, warnings


@pytest.mark.parametrize("resource", OBJECTS)
async def test_the_status_is_checked_as_with_the_whole_object(api: ApiServer, resource: str) -> None:
    kind = api.kinds.get(resource)
    assert kind is not None
    made = await api.cluster.create(resource, OBJECTS[resource])
    for status in STATUSES:
        for validation in ("Strict", "Warn", "Ignore"):
            obj = {**made, "status": status}
            whole = outcome(conform, kind, kind.preferred, clone(obj), validation)
            alone = outcome(conform_status, kind, kind.preferred, clone(obj), validation)
            assert alone == whole, (status, validation)


@pytest.mark.parametrize("resource", OBJECTS)
async def test_a_status_write_leaves_earlier_versions_of_the_object_as_they_were(api: ApiServer, resource: str) -> None:
    made = await api.cluster.create(resource, OBJECTS[resource])
    namespace, name = made["metadata"].get("namespace", ""), made["metadata"]["name"]
    first = api.store.get(resource, namespace, name)
    assert first is not None
    before = clone(first.obj)
    written = await api.cluster.patch(resource, namespace, name, {"status": {"conditions": []}}, subresource="status")
    assert first.obj == before
    assert written["metadata"]["resourceVersion"] != made["metadata"]["resourceVersion"]
    assert {key: written.get(key) for key in ("spec", "kind")} == {key: made.get(key) for key in ("spec", "kind")}


async def test_managers_keep_their_fields_over_a_status_write_and_lose_removed_ones(api: ApiServer) -> None:
    await api.cluster.create("deployments.apps", deployment(paused=True, minReadySeconds=3), manager="first")
    status = {"status": {"replicas": 1}}
    made = await api.cluster.patch("deployments.apps", "default", "d", status, subresource="status", manager="second")
    first, second = made["metadata"]["managedFields"]
    assert {"f:paused", "f:minReadySeconds"} <= first["fieldsV1"]["f:spec"].keys()
    assert second["fieldsV1"] == {"f:status": {"f:replicas": {}}}
    gone = {"spec": {"minReadySeconds": None}}
    made = await api.cluster.patch("deployments.apps", "default", "d", gone, manager="third")
    entries = {one["manager"]: one["fieldsV1"] for one in made["metadata"]["managedFields"]}
    assert "f:minReadySeconds" not in entries["first"]["f:spec"]
    made = await api.cluster.patch(
        "deployments.apps", "default", "d", {"status": {"replicas": None}}, subresource="status", manager="second"
    )
    entries = {one["manager"]: one["fieldsV1"] for one in made["metadata"]["managedFields"]}
    assert entries["second"] == {"f:status": {}}


async def test_a_custom_resource_is_checked_whole(api: ApiServer) -> None:
    await api.cluster.create("customresourcedefinitions.apiextensions.k8s.io", definition())
    await api.cluster.create("things.example.org", thing(size=1))
    made = await api.cluster.patch(
        "things.example.org", "default", "t", {"status": {"any": 1}, "spec": {"size": 9}}, subresource="status"
    )
    assert (made["status"], made["spec"]) == ({"any": 1}, {"size": 1})


async def test_a_kind_without_a_status_has_none_to_write(api: ApiServer) -> None:
    await api.cluster.create("configmaps", config_map(a="1"))
    made = await api.cluster.patch("configmaps", "default", "m", {"data": {"b": "2"}})
    assert "status" not in made
