"""Deployments become pods as in Kubernetes, seen from outside: objects in, objects out."""

from __future__ import annotations

import asyncio
import re

import pytest

from deploy.devcluster import object_fields
from deploy.devcluster.cluster_api import Obj
from tests.unit.devcluster_controllers.scene import Scene, deployment, scene, template
from tests.waiting import eventually

WITHIN = 5.0


async def count(stage: Scene, wanted: int) -> list[Obj]:
    async def there() -> list[Obj] | None:
        pods = [pod for pod in await stage.pods() if not object_fields.is_terminating(pod)]
        assert len(pods) == wanted
        return pods or [{}]

    pods = await eventually(there, within=WITHIN, what=f"{wanted} pods")
    return [pod for pod in pods if pod]


async def settled(stage: Scene, name: str = "web") -> Obj:
    """Play the node until the rollout is complete, as `kubectl rollout status` sees it."""

    async def complete() -> Obj | None:
        await stage.make_all_ready()
        await stage.bury()
        found = await stage.cluster.get("deployments.apps", "default", name)
        assert found is not None
        progressing = object_fields.condition(found, "Progressing")
        status = found.get("status") or {}
        if status.get("observedGeneration") != found["metadata"]["generation"] or progressing is None:
            return None
        if progressing["reason"] != "NewReplicaSetAvailable" or status.get("updatedReplicas") != status["replicas"]:
            return None
        return found if status["replicas"] == found["spec"]["replicas"] else None

    return await eventually(complete, within=WITHIN, what="the rollout is complete")


async def test_pods_have_the_names_and_owners_that_kubernetes_gives_them() -> None:
    async with scene() as stage:
        await stage.cluster.create("deployments.apps", deployment())
        pods = await count(stage, 3)
        for pod in pods:
            assert re.fullmatch(r"web-[bcdf-hj-np-tv-xz0-9]{10}-[bcdf-hj-np-tv-z0-9]{5}", object_fields.name(pod))
            assert object_fields.labels(pod)["pod-template-hash"] in object_fields.name(pod)
            owner = object_fields.controller_of(pod)
            assert owner is not None
            assert owner["kind"] == "ReplicaSet"


async def test_it_is_available_when_enough_pods_are_ready() -> None:
    async with scene() as stage:
        await stage.cluster.create("deployments.apps", deployment())
        pods = await count(stage, 3)
        await stage.make_ready(pods[0])

        async def available() -> str | None:
            found = await stage.cluster.get("deployments.apps", "default", "web")
            condition = object_fields.condition(found or {}, "Available")
            ready = ((found or {}).get("status") or {}).get("readyReplicas")
            return f"{condition['status']} {ready}" if condition else None

        await eventually(lambda: _is(available, "False 1"), within=WITHIN, what="one ready pod is not enough")
        await stage.make_all_ready()
        await eventually(lambda: _is(available, "True 3"), within=WITHIN, what="three are")


async def _is(probe: object, wanted: str) -> bool:
    assert callable(probe)
    return await probe() == wanted  # type: ignore[misc]


async def test_a_changed_template_rolls_pod_by_pod_and_history_can_be_undone() -> None:
    async with scene() as stage:
        await stage.cluster.create("deployments.apps", deployment())
        first = await settled(stage)
        await stage.cluster.patch("deployments.apps", "default", "web", {"spec": {"template": template(image="two")}})
        second = await settled(stage)
        images = {pod["spec"]["containers"][0]["image"] for pod in await count(stage, 3)}
        assert images == {"two"}
        await stage.cluster.patch("deployments.apps", "default", "web", {"spec": {"template": template(image="one")}})
        third = await settled(stage)
        sets, _ = await stage.cluster.list("replicasets.apps", "default")
        assert len(sets) == 2, "the old set is used again"
        revision = "deployment.kubernetes.io/revision"
        assert [object_fields.annotations(each)[revision] for each in (first, second, third)] == ["1", "2", "3"]


async def test_while_it_rolls_enough_pods_stay() -> None:
    """MaxUnavailable 0: an old pod goes only after a new one is ready."""
    async with scene() as stage:
        await stage.cluster.create("deployments.apps", deployment(replicas=2))
        await settled(stage)
        await stage.cluster.patch("deployments.apps", "default", "web", {"spec": {"template": template(image="two")}})
        pods = await count(stage, 3)
        ready = [pod for pod in pods if object_fields.is_pod_ready(pod)]
        assert len(ready) == 2
        await stage.make_all_ready()
        await settled(stage)


async def test_recreate_ends_all_old_pods_before_it_starts_new_ones() -> None:
    async with scene() as stage:
        await stage.cluster.create("deployments.apps", deployment(replicas=2, strategy={"type": "Recreate"}))
        await settled(stage)
        await stage.cluster.patch("deployments.apps", "default", "web", {"spec": {"template": template(image="two")}})
        assert all(map(object_fields.is_terminating, await leaving(stage, 2)))
        await stage.bury()
        await settled(stage)
        assert {pod["spec"]["containers"][0]["image"] for pod in await stage.pods()} == {"two"}


async def leaving(stage: Scene, wanted: int) -> list[Obj]:
    async def there() -> list[Obj] | None:
        pods = await stage.pods()
        return pods if sum(map(object_fields.is_terminating, pods)) == wanted else None

    return await eventually(there, within=WITHIN, what=f"{wanted} pods are on their way out")


async def test_a_paused_deployment_scales_but_does_not_roll() -> None:
    async with scene() as stage:
        await stage.cluster.create("deployments.apps", deployment(replicas=1))
        await settled(stage)
        change: Obj = {"spec": {"paused": True, "replicas": 2, "template": template(image="two")}}
        await stage.cluster.patch("deployments.apps", "default", "web", change)
        pods = await count(stage, 2)
        assert {pod["spec"]["containers"][0]["image"] for pod in pods} == {"one"}
        await stage.cluster.patch("deployments.apps", "default", "web", {"spec": {"paused": None}})
        await settled(stage)
        assert {pod["spec"]["containers"][0]["image"] for pod in await stage.pods()} == {"two"}


async def test_a_lost_pod_is_replaced_and_a_relabelled_one_let_go() -> None:
    async with scene() as stage:
        await stage.cluster.create("deployments.apps", deployment(replicas=2))
        pods = await count(stage, 2)
        await stage.cluster.delete("pods", *object_fields.key(pods[0]), grace_seconds=0)
        await count(stage, 2)
        await stage.cluster.patch("pods", *object_fields.key(pods[1]), {"metadata": {"labels": {"app": "other"}}})
        pods = await count(stage, 3)
        assert sum(object_fields.controller_of(pod) is None for pod in pods) == 1


async def test_deleting_it_takes_its_sets_and_pods_away() -> None:
    async with scene() as stage:
        await stage.cluster.create("deployments.apps", deployment())
        await count(stage, 3)
        await stage.cluster.delete("deployments.apps", "default", "web")

        async def gone() -> bool:
            await stage.bury()
            return not await stage.pods() and not (await stage.cluster.list("replicasets.apps"))[0]

        await eventually(gone, within=WITHIN, what="nothing is left of the deployment")


@pytest.mark.parametrize("minimum", [0, 30])
async def test_pods_count_as_available_only_after_min_ready_seconds(minimum: int) -> None:
    """Pods of the scene became ready at second 1."""
    async with scene(now=lambda: 20.0) as stage:
        await stage.cluster.create("deployments.apps", deployment(replicas=1, minReadySeconds=minimum))
        await stage.make_ready((await count(stage, 1))[0])

        async def ready() -> Obj | None:
            found = await stage.cluster.get("deployments.apps", "default", "web")
            status = (found or {}).get("status") or {}
            return status if status.get("readyReplicas") else None

        status = await eventually(ready, within=WITHIN, what="one pod is ready")
        assert status["availableReplicas"] == (0 if minimum else 1)


async def test_pods_that_admission_refuses_are_told_once_and_not_asked_for_in_a_spin() -> None:
    """A webhook that hangs up refuses every pod; the Deployment says why, and tries again at leisure."""
    calls = 0

    async def hang_up(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal calls
        calls += 1
        writer.close()

    server = await asyncio.start_server(hang_up, "127.0.0.1", 0)
    port: int = server.sockets[0].getsockname()[1]
    rule = {"apiGroups": [""], "apiVersions": ["v1"], "operations": ["CREATE"], "resources": ["pods"]}
    webhook: Obj = {
        "name": "inject.meshlog.io",
        "clientConfig": {"url": f"https://127.0.0.1:{port}/mutate"},
        "rules": [rule],
        "sideEffects": "None",
        "admissionReviewVersions": ["v1"],
    }
    resource = "mutatingwebhookconfigurations.admissionregistration.k8s.io"
    async with server, scene() as stage:
        await stage.cluster.create(resource, {"metadata": {"name": "mesh"}, "webhooks": [webhook]})
        await stage.cluster.create("deployments.apps", deployment(replicas=2))

        async def refused() -> Obj | None:
            found = await stage.cluster.get("deployments.apps", "default", "web")
            return object_fields.condition(found or {}, "ReplicaFailure")

        condition = await eventually(refused, within=WITHIN, what="the failure is told")
        assert "inject.meshlog.io" in condition["message"]

        async def version() -> str:
            sets, _ = await stage.cluster.list("replicasets.apps", "default")
            return sets[0]["metadata"]["resourceVersion"]

        before, earlier = await version(), calls
        await eventually(lambda: calls >= earlier + 3, within=WITHIN, what="it is tried again")
        assert await version() == before, "the same failure is not written again"
        await stage.cluster.delete(resource, "", "mesh")
        await count(stage, 2)
