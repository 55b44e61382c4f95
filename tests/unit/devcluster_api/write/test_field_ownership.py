"""managedFields, and what server-side apply makes of them."""

from __future__ import annotations

from typing import Any

import pytest

from deploy.devcluster.apiserver import ApiServer
from deploy.devcluster.apiserver.kinds.kind_registry import ResourceTarget
from deploy.devcluster.apiserver.status_errors import StatusError
from deploy.devcluster.apiserver.write.write_options import WriteOptions
from deploy.devcluster.cluster_api import Obj
from tests.unit.devcluster_api.conftest import Clock
from tests.unit.devcluster_api.objects import config_map, deployment


async def apply(api: ApiServer, obj: Obj, manager: str, *, force: bool = False) -> Obj:
    found = api.kinds.of(obj["apiVersion"], obj["kind"])
    assert found is not None
    target = ResourceTarget(*found, obj["metadata"]["namespace"], obj["metadata"]["name"])
    return (await api.writer.apply(target, obj, WriteOptions(manager=manager, force=force)))[0].copy()


def managers(obj: Obj) -> list[tuple[str, str]]:
    return [(one["manager"], one["operation"]) for one in obj["metadata"]["managedFields"]]


async def test_a_field_belongs_to_who_wrote_it_last(api: ApiServer, clock: Clock) -> None:
    await api.cluster.create("configmaps", config_map(a="1", b="1"), manager="first")
    clock.now += 60
    made = await api.cluster.patch("configmaps", "default", "m", {"data": {"b": "2"}}, manager="second")
    first, second = made["metadata"]["managedFields"]
    assert first["fieldsV1"] == {"f:data": {"f:a": {}}}
    assert second["fieldsV1"] == {"f:data": {"f:b": {}}}
    assert second["time"] > first["time"]
    assert managers(made) == [("first", "Update"), ("second", "Update")]


async def test_the_newest_writer_stands_last(api: ApiServer) -> None:
    await api.cluster.create("configmaps", config_map(a="1", b="1"), manager="first")
    await api.cluster.patch("configmaps", "default", "m", {"data": {"b": "2"}}, manager="second")
    made = await api.cluster.patch("configmaps", "default", "m", {"data": {"a": "3"}}, manager="first")
    assert managers(made)[-1] == ("first", "Update")


async def test_what_is_removed_belongs_to_nobody(api: ApiServer) -> None:
    await api.cluster.create("configmaps", config_map(a="1", b="1"), manager="first")
    made = await api.cluster.patch("configmaps", "default", "m", {"data": {"a": None}}, manager="second")
    assert [one["fieldsV1"] for one in made["metadata"]["managedFields"]] == [{"f:data": {"f:b": {}}}]


async def test_a_status_write_has_its_own_entry(api: ApiServer) -> None:
    await api.cluster.create("deployments.apps", deployment(), manager="me")
    made = await api.cluster.patch(
        "deployments.apps", "default", "d", {"status": {"replicas": 1}}, subresource="status", manager="me"
    )
    entry = made["metadata"]["managedFields"][-1]
    assert (entry["subresource"], entry["fieldsV1"]) == ("status", {"f:status": {"f:replicas": {}}})


async def test_apply_removes_what_the_manager_no_longer_applies(api: ApiServer) -> None:
    await apply(api, config_map(a="1", b="1"), "me")
    await api.cluster.patch("configmaps", "default", "m", {"data": {"c": "1"}}, manager="other")
    made = await apply(api, config_map(a="1"), "me")
    assert made["data"] == {"a": "1", "c": "1"}


async def test_apply_keeps_what_another_manager_applies_too(api: ApiServer) -> None:
    await apply(api, config_map(a="1", b="1"), "me")
    await apply(api, config_map(b="1"), "you")
    assert (await apply(api, config_map(a="1"), "me"))["data"] == {"a": "1", "b": "1"}
    assert (await apply(api, config_map(), "you"))["data"] == {"a": "1"}


async def test_apply_does_not_take_a_field_without_force(api: ApiServer) -> None:
    await apply(api, config_map(a="1"), "me")
    with pytest.raises(StatusError) as refusal:
        await apply(api, config_map(a="2"), "you")
    assert refusal.value.status == 409
    assert refusal.value.sentence == 'Apply failed with 1 conflict: conflict with "me": .data.a'
    assert refusal.value.details["causes"][0]["reason"] == "FieldManagerConflict"
    made = await apply(api, config_map(a="2"), "you", force=True)
    assert made["data"] == {"a": "2"}
    assert managers(made) == [("you", "Apply")]


async def test_applying_the_same_again_changes_nothing(api: ApiServer, clock: Clock) -> None:
    first = await apply(api, deployment(replicas=2), "me")
    clock.now += 60
    assert await apply(api, deployment(replicas=2), "me") == first


async def test_apply_merges_keyed_lists_item_by_item(api: ApiServer) -> None:
    def with_containers(*containers: Any) -> Obj:
        obj = deployment()
        obj["spec"]["template"]["spec"]["containers"] = list(containers)
        return obj

    one = {"name": "a", "image": "1", "ports": [{"containerPort": 80}]}
    await apply(api, with_containers(one, {"name": "b", "image": "1"}), "me")
    made = await apply(api, with_containers({"name": "c", "image": "1"}), "you")
    assert [c["name"] for c in made["spec"]["template"]["spec"]["containers"]] == ["a", "b", "c"]
    made = await apply(api, with_containers(one), "me")
    assert [c["name"] for c in made["spec"]["template"]["spec"]["containers"]] == ["a", "c"]
    assert made["spec"]["template"]["spec"]["containers"][0]["ports"] == [{"containerPort": 80, "protocol": "TCP"}]


async def test_managed_fields_cannot_be_applied(api: ApiServer) -> None:
    obj = config_map()
    obj["metadata"]["managedFields"] = [{"manager": "x"}]
    with pytest.raises(StatusError, match="managedFields must be nil"):
        await apply(api, obj, "me")
