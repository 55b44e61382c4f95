"""Claims are bound, protected while a pod uses them, and go with their directory."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from deploy.devcluster import objects
from deploy.devcluster.cluster import Obj
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
        assert found["spec"]["volumeName"] == f"pvc-{objects.uid(found)}"
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
            return found is not None and objects.is_terminating(found)

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
            claimed = [{"name": "data", "persistentVolumeClaim": {"claimName": f"data-{objects.name(pod)}"}}]
            assert pod["spec"]["volumes"] == claimed
        await stage.cluster.delete("statefulsets.apps", "default", "web")

        async def none() -> bool:
            await stage.bury()
            return not await stage.pods()

        await eventually(none, within=WITHIN, what="the pods are gone")
        await bound(stage, "data-web-1")
