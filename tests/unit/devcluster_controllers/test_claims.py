"""Claims are bound, protected while a pod uses them, and go with their directory."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from deploy.devcluster import object_fields
from deploy.devcluster.cluster_api import KubeApiError, Obj
from tests.unit.devcluster_controllers.scene import Scene, scene
from tests.unit.devcluster_controllers.test_statefulsets import stateful
from tests.waiting import eventually

WITHIN = 5.0
SPEC: Obj = {"accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": "250M"}}}


def claim(name: str = "data", namespace: str = "default") -> Obj:
    return {
        "apiVersion": "v1",
        "kind": "PersistentVolumeClaim",
        "metadata": {"name": name, "namespace": namespace},
        "spec": SPEC,
    }


def user(name: str = "user", **spec: Any) -> Obj:
    volumes = [{"name": "v", "persistentVolumeClaim": {"claimName": "data"}}]
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": name, "namespace": "default"},
        "spec": {"containers": [{"name": "a", "image": "a"}], "volumes": volumes, "nodeName": "devcluster", **spec},
    }


async def bound(stage: Scene, name: str = "data", namespace: str = "default") -> Obj:
    async def there() -> Obj | None:
        found = await stage.cluster.get("persistentvolumeclaims", namespace, name)
        return found if found is not None and found["status"]["phase"] == "Bound" else None

    return await eventually(there, within=WITHIN, what=f"the claim {name} is bound")


async def gone(stage: Scene, name: str = "data") -> None:
    async def nothing() -> bool:
        return await stage.cluster.get("persistentvolumeclaims", "default", name) is None

    await eventually(nothing, within=WITHIN, what=f"the claim {name} is gone")


async def test_a_claim_is_bound_to_an_empty_directory_and_both_go_together(tmp_path: Path) -> None:
    (tmp_path / "default" / "data").mkdir(parents=True)
    (tmp_path / "default" / "data" / "of an earlier devcluster").touch()
    async with scene(claims=tmp_path) as stage:
        await stage.cluster.create("persistentvolumeclaims", claim())
        found = await bound(stage)
        assert found["status"] | {"phase": "Bound"} == {
            "phase": "Bound", "accessModes": ["ReadWriteOnce"], "capacity": {"storage": "250M"},
        }  # fmt: skip
        assert found["spec"]["volumeName"] == f"pvc-{object_fields.uid(found)}"
        assert list((tmp_path / "default" / "data").iterdir()) == []
        (tmp_path / "default" / "data" / "file").touch()
        await stage.cluster.delete("persistentvolumeclaims", "default", "data")
        await gone(stage)
        assert list((tmp_path / "default").iterdir()) == []


async def test_a_claim_of_the_mesh_finds_the_files_of_the_devcluster_before(tmp_path: Path) -> None:
    (tmp_path / "kept" / "data").mkdir(parents=True)
    (tmp_path / "kept" / "data" / "log").touch()
    async with scene(claims=tmp_path) as stage:
        await stage.cluster.create("namespaces", {"metadata": {"name": "kept"}})
        await stage.cluster.create("persistentvolumeclaims", claim(namespace="kept"))
        await bound(stage, namespace="kept")
        assert (tmp_path / "kept" / "data" / "log").exists()


@pytest.mark.parametrize("how", ["claim", "namespace"])
async def test_a_deleted_claim_waits_for_its_last_pod(tmp_path: Path, how: str) -> None:
    async with scene(claims=tmp_path) as stage:
        await stage.cluster.create("namespaces", {"metadata": {"name": "shop"}})
        await stage.cluster.create("persistentvolumeclaims", claim(namespace="shop"))
        await bound(stage, namespace="shop")
        used = user()
        used["metadata"]["namespace"] = "shop"
        await stage.cluster.create("pods", used)
        (tmp_path / "shop" / "data" / "file").touch()
        if how == "claim":
            await stage.cluster.delete("persistentvolumeclaims", "shop", "data")
        else:
            await stage.cluster.delete("namespaces", "", "shop")

        async def marked() -> bool:
            found = await stage.cluster.get("persistentvolumeclaims", "shop", "data")
            return found is not None and object_fields.is_terminating(found)

        await eventually(marked, within=WITHIN, what="the claim is on its way out")
        assert (tmp_path / "shop" / "data" / "file").exists()
        await stage.cluster.delete("pods", "shop", "user", grace_seconds=0)

        async def all_gone() -> bool:
            there = await stage.cluster.get("persistentvolumeclaims", "shop", "data") is not None
            there |= how == "namespace" and await stage.cluster.get("namespaces", "", "shop") is not None
            return not there and not (tmp_path / "shop" / "data").exists()

        await eventually(all_gone, within=WITHIN, what="claim, files and namespace are gone")


async def test_a_stateful_set_makes_claims_for_its_pods_and_leaves_them(tmp_path: Path) -> None:
    template = {"metadata": {"name": "data", "labels": {"tier": "db"}}, "spec": SPEC}
    async with scene(claims=tmp_path) as stage:
        made = stateful(replicas=2, podManagementPolicy="Parallel", volumeClaimTemplates=[template])
        # As Open Service Mesh's own manifests have it: the claim takes the place of a volume of its name.
        made["spec"]["template"]["spec"]["volumes"] = [{"name": "data", "emptyDir": {}}]
        await stage.cluster.create("statefulsets.apps", made)
        for name in ("data-web-0", "data-web-1"):
            found = await bound(stage, name)
            assert found["metadata"]["labels"] == {"app": "web", "tier": "db"}

        async def both() -> bool:
            return len(await stage.pods()) == 2

        await eventually(both, within=WITHIN, what="both pods are there")
        for pod in await stage.pods():
            claimed = [{"name": "data", "persistentVolumeClaim": {"claimName": f"data-{object_fields.name(pod)}"}}]
            assert pod["spec"]["volumes"] == claimed
        await stage.cluster.delete("statefulsets.apps", "default", "web")

        async def none() -> bool:
            await stage.bury()
            return not await stage.pods()

        await eventually(none, within=WITHIN, what="the pods are gone")
        await bound(stage, "data-web-1")


def keeping(replicas: int = 2, **policy: str) -> Obj:
    templates = [{"metadata": {"name": "data"}, "spec": SPEC}]
    return stateful(
        replicas,
        podManagementPolicy="Parallel",
        volumeClaimTemplates=templates,
        persistentVolumeClaimRetentionPolicy=policy,
    )


async def owners(stage: Scene, name: str) -> list[tuple[str, str]]:
    found = await stage.cluster.get("persistentvolumeclaims", "default", name)
    assert found is not None
    return [(one["kind"], one["name"]) for one in found["metadata"].get("ownerReferences") or []]


async def owned_by(stage: Scene, name: str, *wanted: tuple[str, str]) -> None:
    async def so() -> bool:
        return await owners(stage, name) == list(wanted)

    await eventually(so, within=WITHIN, what=f"the claim {name} is owned by {wanted}")


async def scaled(stage: Scene, replicas: int) -> None:
    await stage.cluster.patch("statefulsets.apps", "default", "web", {"spec": {"replicas": replicas}})


SET = ("StatefulSet", "web")


@pytest.mark.parametrize("deleted", ["Retain", "Delete"])
@pytest.mark.parametrize("scaling", ["Retain", "Delete"])
async def test_claims_go_with_their_set_or_with_the_pod_beyond_its_replicas_as_the_policy_says(
    deleted: str, scaling: str, tmp_path: Path
) -> None:
    by_set = [SET] if deleted == "Delete" else []
    async with scene(claims=tmp_path) as stage:
        await stage.cluster.create("statefulsets.apps", keeping(whenDeleted=deleted, whenScaled=scaling))
        await bound(stage, "data-web-1")
        await running(stage)
        await owned_by(stage, "data-web-0", *by_set)
        await owned_by(stage, "data-web-1", *by_set)
        await scaled(stage, 1)
        if scaling == "Delete":
            await owned_by(stage, "data-web-1", ("Pod", "web-1"))
        await eventually(lambda: terminating(stage, "web-1"), within=WITHIN, what="the pod beyond the replicas ends")
        await stage.bury()
        if scaling == "Delete":
            await gone(stage, "data-web-1")
        await stage.cluster.delete("statefulsets.apps", "default", "web")
        await eventually(lambda: terminating(stage, "web-0"), within=WITHIN, what="the pods of the set end")
        await stage.bury()
        if deleted == "Delete":
            await gone(stage, "data-web-0")
            left = [] if scaling == "Delete" else ["data-web-1"]
            assert await names_of_claims(stage, left) == []
        else:
            left = ["data-web-0"] if scaling == "Delete" else ["data-web-0", "data-web-1"]
            assert await names_of_claims(stage) == left


async def test_a_policy_that_changes_changes_whose_the_claims_are(tmp_path: Path) -> None:
    async with scene(claims=tmp_path) as stage:
        await stage.cluster.create("statefulsets.apps", keeping())
        await bound(stage, "data-web-1")
        assert await owners(stage, "data-web-0") == []
        for policy, wanted in (("Delete", [SET]), ("Retain", [])):
            spec = {"persistentVolumeClaimRetentionPolicy": {"whenDeleted": policy}}
            await stage.cluster.patch("statefulsets.apps", "default", "web", {"spec": spec})
            for name in ("data-web-0", "data-web-1"):
                await owned_by(stage, name, *wanted)


async def test_a_pod_that_comes_back_does_not_begin_with_the_files_that_were_to_go(tmp_path: Path) -> None:
    async with scene(claims=tmp_path) as stage:
        await stage.cluster.create("statefulsets.apps", keeping(whenScaled="Delete"))
        first = await bound(stage, "data-web-1")
        await running(stage)
        await scaled(stage, 1)
        await eventually(lambda: terminating(stage, "web-1"), within=WITHIN, what="the pod beyond the replicas ends")
        await owned_by(stage, "data-web-1", ("Pod", "web-1"))
        await scaled(stage, 2)
        await stage.bury()

        async def anew() -> bool:
            found = await stage.cluster.get("persistentvolumeclaims", "default", "data-web-1")
            pods = {object_fields.name(pod) for pod in await stage.pods()}
            return found is not None and object_fields.uid(found) != object_fields.uid(first) and "web-1" in pods

        await eventually(anew, within=WITHIN, what="the pod is there again, with a claim of its own")


async def test_a_policy_that_there_is_not_is_refused() -> None:
    async with scene() as stage:
        with pytest.raises(KubeApiError, match="whenScaled"):
            await stage.cluster.create("statefulsets.apps", keeping(whenScaled="Sometimes"))


async def running(stage: Scene) -> None:
    """Both pods run on the node: they do not end at once."""

    async def so() -> bool:
        await stage.make_all_ready()
        pods = await stage.pods()
        return len(pods) == 2 and all(object_fields.is_pod_ready(pod) for pod in pods)

    await eventually(so, within=WITHIN, what="the pods run")


async def terminating(stage: Scene, name: str) -> bool:
    found = await stage.cluster.get("pods", "default", name)
    return found is None or object_fields.is_terminating(found)


async def names_of_claims(stage: Scene, besides: list[str] | None = None) -> list[str]:
    claims, _ = await stage.cluster.list("persistentvolumeclaims", "default")
    return sorted(object_fields.name(one) for one in claims if object_fields.name(one) not in (besides or []))
