"""The `Cluster` protocol: what controllers and the node agent rely on."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import pytest

from deploy.devcluster.apiserver import ApiServer
from deploy.devcluster.cluster_api import Cluster, KubeApiError, Obj, WatchEvent
from tests.unit.devcluster_api.conftest import Clock
from tests.unit.devcluster_api.objects import config_map, definition, deployment, pod, thing


async def refused(call: object, status: int, reason: str) -> str:
    """The sentence with which a call is refused."""
    with pytest.raises(KubeApiError) as refusal:
        await call  # type: ignore[misc]
    assert (refusal.value.status, refusal.value.reason) == (status, reason)
    return refusal.value.sentence


async def test_the_protocol_is_implemented(api: ApiServer) -> None:
    cluster: Cluster = api.cluster
    assert await cluster.get("namespaces", "", "default")


async def test_a_new_object_gets_identity_defaults_and_a_manager(api: ApiServer) -> None:
    made = await api.cluster.create("deployments.apps", deployment(), manager="me")
    metadata = made["metadata"]
    assert metadata["uid"]
    assert metadata["generation"] == 1
    assert metadata["creationTimestamp"].endswith("Z")
    assert metadata["managedFields"][0]["manager"] == "me"
    assert made["spec"]["replicas"] == 1
    assert made["spec"]["template"]["spec"]["restartPolicy"] == "Always"


async def test_what_is_returned_is_the_callers_own(api: ApiServer) -> None:
    made = await api.cluster.create("configmaps", config_map(a="b"))
    made["data"]["a"] = "spoilt"
    got = await api.cluster.get("configmaps", "default", "m")
    assert got is not None
    got["data"]["a"] = "spoilt"
    again = await api.cluster.get("configmaps", "default", "m")
    assert again is not None
    assert again["data"] == {"a": "b"}


async def test_what_is_given_stays_as_it_is(api: ApiServer) -> None:
    given = pod()
    before = pod()
    await api.cluster.create("pods", given)
    assert given == before


async def test_generate_name_makes_a_name(api: ApiServer) -> None:
    obj = pod()
    obj["metadata"] = {"generateName": "web-", "namespace": "default"}
    first, second = await api.cluster.create("pods", obj), await api.cluster.create("pods", obj)
    assert first["metadata"]["name"].startswith("web-")
    assert first["metadata"]["name"] != second["metadata"]["name"]


async def test_a_second_object_of_the_name_is_refused(api: ApiServer) -> None:
    await api.cluster.create("configmaps", config_map())
    said = await refused(api.cluster.create("configmaps", config_map()), 409, "AlreadyExists")
    assert said == 'configmaps "m" already exists'


async def test_an_object_in_no_namespace_is_refused(api: ApiServer) -> None:
    obj = config_map()
    obj["metadata"]["namespace"] = "nowhere"
    assert "nowhere" in await refused(api.cluster.create("configmaps", obj), 404, "NotFound")


async def test_an_update_of_an_old_version_conflicts(api: ApiServer) -> None:
    first = await api.cluster.create("configmaps", config_map(a="1"))
    await api.cluster.update("configmaps", {**first, "data": {"a": "2"}})
    said = await refused(api.cluster.update("configmaps", {**first, "data": {"a": "3"}}), 409, "Conflict")
    assert "the object has been modified" in said


async def test_an_update_that_changes_nothing_keeps_the_version(api: ApiServer) -> None:
    first = await api.cluster.create("configmaps", config_map(a="1"))
    again = await api.cluster.update("configmaps", first, manager="another")
    assert again["metadata"] == first["metadata"]


async def test_a_patch_never_conflicts(api: ApiServer) -> None:
    await api.cluster.create("configmaps", config_map(a="1"))
    await asyncio.gather(
        *(api.cluster.patch("configmaps", "default", "m", {"data": {f"k{n}": "v"}}) for n in range(20))
    )
    got = await api.cluster.get("configmaps", "default", "m")
    assert got is not None
    assert len(got["data"]) == 21


async def test_generation_counts_changes_of_the_spec_only(api: ApiServer) -> None:
    await api.cluster.create("deployments.apps", deployment())

    async def generation(change: Obj, subresource: str = "") -> int:
        made = await api.cluster.patch("deployments.apps", "default", "d", change, subresource=subresource)
        return made["metadata"]["generation"]

    assert await generation({"metadata": {"labels": {"a": "b"}}}) == 1
    assert await generation({"status": {"replicas": 1}}, "status") == 1
    assert await generation({"spec": {"replicas": 2}}) == 2


async def test_status_and_the_rest_are_written_apart(api: ApiServer) -> None:
    obj = deployment()
    obj["status"] = {"replicas": 9}
    made = await api.cluster.create("deployments.apps", obj)
    assert "status" not in made
    made = await api.cluster.patch(
        "deployments.apps", "default", "d", {"status": {"replicas": 1}, "spec": {"replicas": 7}}, subresource="status"
    )
    assert (made["spec"]["replicas"], made["status"]["replicas"]) == (1, 1)
    made = await api.cluster.patch("deployments.apps", "default", "d", {"status": {"replicas": 5}})
    assert made["status"]["replicas"] == 1


async def test_what_identifies_an_object_cannot_be_changed(api: ApiServer) -> None:
    first = await api.cluster.create("configmaps", config_map(a="1"))
    changed = {**first, "metadata": {**first["metadata"], "creationTimestamp": "2001-01-01T00:00:00Z"}, "data": {}}
    made = await api.cluster.update("configmaps", changed)
    assert made["metadata"]["creationTimestamp"] == first["metadata"]["creationTimestamp"]
    other = {**made, "metadata": {**made["metadata"], "uid": "x"}}
    await refused(api.cluster.update("configmaps", other), 409, "Conflict")


async def test_a_running_pods_containers_cannot_be_changed(api: ApiServer) -> None:
    await api.cluster.create("pods", pod())
    made = await api.cluster.patch("pods", "default", "p", {"spec": {"nodeName": "node"}})
    assert made["spec"]["nodeName"] == "node"
    said = await refused(api.cluster.patch("pods", "default", "p", {"spec": {"hostNetwork": True}}), 422, "Invalid")
    assert "pod updates may not change fields" in said
    await refused(api.cluster.patch("pods", "default", "p", {"spec": {"nodeName": "other"}}), 422, "Invalid")


async def test_a_running_pod_goes_when_the_node_says_so(api: ApiServer, clock: Clock) -> None:
    await api.cluster.create("pods", pod(terminationGracePeriodSeconds=7, nodeName="n"))
    await api.cluster.delete("pods", "default", "p")
    marked = await api.cluster.get("pods", "default", "p")
    assert marked is not None
    assert marked["metadata"]["deletionGracePeriodSeconds"] == 7
    first = marked["metadata"]["resourceVersion"]
    await api.cluster.delete("pods", "default", "p", grace_seconds=60)
    marked = await api.cluster.get("pods", "default", "p")
    assert marked is not None
    assert marked["metadata"]["resourceVersion"] == first, "a later deletion only makes it sooner"
    await api.cluster.delete("pods", "default", "p", grace_seconds=0)
    assert await api.cluster.get("pods", "default", "p") is None


async def test_a_pod_that_runs_nowhere_goes_at_once(api: ApiServer) -> None:
    await api.cluster.create("pods", pod())
    await api.cluster.delete("pods", "default", "p")
    assert await api.cluster.get("pods", "default", "p") is None
    await api.cluster.delete("pods", "default", "p")


async def test_finalizers_hold_an_object_until_they_are_taken_away(api: ApiServer) -> None:
    obj = config_map()
    obj["metadata"]["finalizers"] = ["example.org/hold"]
    await api.cluster.create("configmaps", obj)
    await api.cluster.delete("configmaps", "default", "m")
    held = await api.cluster.get("configmaps", "default", "m")
    assert held is not None
    assert held["metadata"]["deletionTimestamp"]
    more = {"metadata": {"finalizers": ["example.org/hold", "example.org/more"]}}
    await refused(api.cluster.patch("configmaps", "default", "m", more), 422, "Invalid")
    await api.cluster.patch("configmaps", "default", "m", {"metadata": {"finalizers": None}})
    assert await api.cluster.get("configmaps", "default", "m") is None


async def test_a_namespace_takes_its_contents_along_and_waits_for_them(api: ApiServer) -> None:
    await api.cluster.create("namespaces", {"metadata": {"name": "n"}})
    for resource, obj in (("configmaps", config_map()), ("pods", pod(nodeName="n"))):
        obj["metadata"]["namespace"] = "n"
        await api.cluster.create(resource, obj)
    await api.cluster.delete("namespaces", "", "n")
    namespace = await api.cluster.get("namespaces", "", "n")
    assert namespace is not None
    assert namespace["status"]["phase"] == "Terminating"
    assert await api.cluster.get("configmaps", "n", "m") is None
    late = config_map("late")
    late["metadata"]["namespace"] = "n"
    assert "being terminated" in await refused(api.cluster.create("configmaps", late), 403, "Forbidden")
    await api.cluster.delete("pods", "n", "p", grace_seconds=0)
    assert await api.cluster.get("namespaces", "", "n") is None


async def test_an_empty_namespace_goes_at_once(api: ApiServer) -> None:
    await api.cluster.create("namespaces", {"metadata": {"name": "n"}})
    await api.cluster.delete("namespaces", "", "n")
    assert await api.cluster.get("namespaces", "", "n") is None


# --- watches ----------------------------------------------------------------------------------------------------------


async def some(events: AsyncIterator[WatchEvent], count: int) -> list[tuple[str, str]]:
    """Type and name of the next events."""
    return [(one.type, one.object["metadata"]["name"]) async for one in _first(events, count)]


async def _first(events: AsyncIterator[WatchEvent], count: int) -> AsyncIterator[WatchEvent]:
    for _ in range(count):
        yield await asyncio.wait_for(anext(events), 5)


async def test_a_watch_starts_with_what_is_there(api: ApiServer) -> None:
    await api.cluster.create("configmaps", config_map("a"))
    events = api.cluster.watch("configmaps", "default")
    assert await some(events, 1) == [("ADDED", "a")]
    await api.cluster.create("configmaps", config_map("b"))
    await api.cluster.patch("configmaps", "default", "b", {"data": {"x": "y"}})
    await api.cluster.delete("configmaps", "default", "a")
    assert await some(events, 3) == [("ADDED", "b"), ("MODIFIED", "b"), ("DELETED", "a")]


async def test_a_watch_goes_on_where_a_list_ended(api: ApiServer) -> None:
    await api.cluster.create("configmaps", config_map("a"))
    _items, version = await api.cluster.list("configmaps")
    await api.cluster.create("configmaps", config_map("b"))
    assert await some(api.cluster.watch("configmaps", since=version), 1) == [("ADDED", "b")]


async def test_a_watch_from_too_long_ago_is_refused(api: ApiServer) -> None:
    """The window of these tests is 50 changes."""
    _items, version = await api.cluster.list("configmaps")
    await api.cluster.create("configmaps", config_map("a"))
    for number in range(60):
        await api.cluster.patch("configmaps", "default", "a", {"data": {"n": str(number)}})
    await refused(anext(api.cluster.watch("configmaps", since=version)), 410, "Expired")


async def test_a_watcher_that_falls_out_of_the_window_is_told(api: ApiServer) -> None:
    events = api.cluster.watch("configmaps", "default")
    await api.cluster.create("configmaps", config_map("a"))
    assert await some(events, 1) == [("ADDED", "a")]
    for number in range(60):
        await api.cluster.patch("configmaps", "default", "a", {"data": {"n": str(number)}})
    with pytest.raises(KubeApiError) as refusal:
        await some(events, 60)
    assert refusal.value.status == 410


# --- change sets ------------------------------------------------------------------------------------------------------


async def test_a_change_set_enters_with_consecutive_versions(api: ApiServer) -> None:
    await api.cluster.create("customresourcedefinitions.apiextensions.k8s.io", definition())
    stored = await api.cluster.transact([config_map(a="b"), thing(size=1), deployment()])
    versions = [int(one["metadata"]["resourceVersion"]) for one in stored]
    assert versions == list(range(versions[0], versions[0] + 3))
    stamps = {one["metadata"]["annotations"]["meshlog.io/change-set"] for one in stored}
    assert len(stamps) == 1
    assert stamps.pop().endswith("/3")


async def test_a_change_set_with_one_bad_object_stores_nothing(api: ApiServer) -> None:
    await api.cluster.create("customresourcedefinitions.apiextensions.k8s.io", definition())
    said = await refused(api.cluster.transact([config_map(), thing(size=0)]), 422, "Invalid")
    assert "should be greater than or equal to 1" in said
    assert await api.cluster.get("configmaps", "default", "m") is None


async def test_a_change_set_may_bring_its_namespace_along(api: ApiServer) -> None:
    obj = config_map()
    obj["metadata"]["namespace"] = "fresh"
    namespace = {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "fresh"}}
    await api.cluster.transact([obj, namespace])
    assert await api.cluster.get("configmaps", "fresh", "m")


async def test_a_change_set_names_each_object_once_and_only_known_kinds(api: ApiServer) -> None:
    await refused(api.cluster.transact([config_map(), config_map()]), 400, "BadRequest")
    await refused(api.cluster.transact([thing()]), 400, "BadRequest")


# --- kinds that come and go -------------------------------------------------------------------------------------------


async def test_a_defined_kind_is_served_at_once_and_in_every_version(api: ApiServer) -> None:
    crd = await api.cluster.create("customresourcedefinitions.apiextensions.k8s.io", definition())
    assert {one["type"]: one["status"] for one in crd["status"]["conditions"]}["Established"] == "True"
    await api.cluster.create("things.example.org", thing(api_version="example.org/v1beta1", size=3))
    found = api.kinds.at("example.org", "v1", "things")
    stored = api.store.get("things.example.org", "default", "t")
    assert found is not None
    assert stored is not None
    assert b'"apiVersion":"example.org/v1"' in stored.encoded("example.org/v1")


async def test_a_defined_kinds_objects_go_with_its_definition(api: ApiServer) -> None:
    await api.cluster.create("customresourcedefinitions.apiextensions.k8s.io", definition())
    await api.cluster.create("things.example.org", thing(size=3))
    await api.cluster.delete("customresourcedefinitions.apiextensions.k8s.io", "", "things.example.org")
    await refused(api.cluster.list("things.example.org"), 404, "NotFound")
    await api.cluster.create("customresourcedefinitions.apiextensions.k8s.io", definition())
    assert (await api.cluster.list("things.example.org"))[0] == []


async def test_a_built_in_kind_cannot_be_redefined(api: ApiServer) -> None:
    crd = definition(plural="deployments", kind="Deployment")
    crd["metadata"]["name"], crd["spec"]["group"] = "deployments.apps", "apps"
    await refused(api.cluster.create("customresourcedefinitions.apiextensions.k8s.io", crd), 422, "Invalid")


# --- owners -----------------------------------------------------------------------------------------------------------


async def owned(api: ApiServer) -> tuple[Obj, Obj]:
    """A ConfigMap, and one that it owns."""
    owner = await api.cluster.create("configmaps", config_map("owner"))
    child = config_map("child")
    child["metadata"]["ownerReferences"] = [
        {"apiVersion": "v1", "kind": "ConfigMap", "name": "owner", "uid": owner["metadata"]["uid"]}
    ]
    return owner, await api.cluster.create("configmaps", child)


# --- events -----------------------------------------------------------------------------------------------------------


async def test_events_are_forgotten_after_an_hour(api: ApiServer, clock: Clock) -> None:
    def event(name: str) -> Obj:
        about = {"kind": "Pod", "name": "p", "namespace": "default"}
        return {"metadata": {"name": name, "namespace": "default"}, "involvedObject": about}

    await api.cluster.create("events", event("old"))
    clock.now += 1800
    await api.cluster.create("events", event("young"))
    clock.now += 1801
    await api.cluster.create("events", event("new"))
    found, _version = await api.cluster.list("events")
    assert [one["metadata"]["name"] for one in found] == ["new", "young"]
