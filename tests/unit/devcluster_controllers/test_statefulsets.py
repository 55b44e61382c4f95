"""StatefulSets keep names and order."""

from __future__ import annotations

from typing import Any

from deploy.devcluster import object_fields
from deploy.devcluster.cluster_api import Obj
from tests.unit.devcluster_controllers.scene import Scene, scene, template
from tests.waiting import eventually

WITHIN = 5.0


def stateful(replicas: int = 3, **spec: Any) -> Obj:
    return {
        "apiVersion": "apps/v1",
        "kind": "StatefulSet",
        "metadata": {"name": "web", "namespace": "default"},
        "spec": {
            "replicas": replicas,
            "serviceName": "web",
            "selector": {"matchLabels": {"app": "web"}},
            "template": template(),
        }
        | spec,
    }


async def names(stage: Scene, wanted: list[str]) -> None:
    async def there() -> bool:
        return sorted(object_fields.name(pod) for pod in await stage.pods()) == wanted

    await eventually(there, within=WITHIN, what=f"the pods are {wanted}")


async def test_pods_are_made_one_after_the_other() -> None:
    async with scene() as stage:
        await stage.cluster.create("statefulsets.apps", stateful())
        await names(stage, ["web-0"])
        await stage.make_all_ready()
        await names(stage, ["web-0", "web-1"])
        await stage.make_all_ready()
        await names(stage, ["web-0", "web-1", "web-2"])
        pod = (await stage.pods())[0]
        assert pod["spec"]["hostname"] == "web-0"
        assert pod["spec"]["subdomain"] == "web"


async def test_with_the_parallel_policy_they_are_made_at_once() -> None:
    async with scene() as stage:
        await stage.cluster.create("statefulsets.apps", stateful(podManagementPolicy="Parallel"))
        await names(stage, ["web-0", "web-1", "web-2"])


async def test_scaling_down_takes_the_highest_first_and_waits_for_it() -> None:
    async with scene() as stage:
        await stage.cluster.create("statefulsets.apps", stateful(podManagementPolicy="Parallel"))
        await names(stage, ["web-0", "web-1", "web-2"])
        await stage.make_all_ready()
        await stage.cluster.patch("statefulsets.apps", "default", "web", {"spec": {"replicas": 1}})

        async def only_leaving() -> list[str]:
            await stage.bury()
            return ([object_fields.name(pod) for pod in await stage.pods()] == ["web-0"] and ["web-0"]) or []

        await eventually(only_leaving, within=WITHIN, what="only web-0 is left")


async def test_an_update_replaces_from_the_highest_down_and_a_partition_holds_it() -> None:
    async with scene() as stage:
        await stage.cluster.create("statefulsets.apps", stateful(replicas=2, podManagementPolicy="Parallel"))
        await names(stage, ["web-0", "web-1"])
        await stage.make_all_ready()
        rolling = {"type": "RollingUpdate", "rollingUpdate": {"partition": 1}}
        change: Obj = {"spec": {"template": template(image="two"), "updateStrategy": rolling}}
        await stage.cluster.patch("statefulsets.apps", "default", "web", change)

        async def images(wanted: list[str]) -> bool:
            await stage.bury()
            await stage.make_all_ready()
            return [pod["spec"]["containers"][0]["image"] for pod in await stage.pods()] == wanted

        await eventually(lambda: images(["one", "two"]), within=WITHIN, what="only the highest is new")
        open_up: Obj = {"spec": {"updateStrategy": {"rollingUpdate": {"partition": 0}}}}
        await stage.cluster.patch("statefulsets.apps", "default", "web", open_up)
        await eventually(lambda: images(["two", "two"]), within=WITHIN, what="all are new")

        async def told() -> bool:
            found = await stage.cluster.get("statefulsets.apps", "default", "web")
            status = (found or {}).get("status") or {}
            return status.get("currentRevision") == status.get("updateRevision") and status["readyReplicas"] == 2

        await eventually(told, within=WITHIN, what="the status says so, as kubectl rollout status reads it")
