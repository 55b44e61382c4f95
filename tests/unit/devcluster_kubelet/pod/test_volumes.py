"""What a container sees of configuration, secrets and tokens, and that it stays current."""

from __future__ import annotations

import stat
from pathlib import Path
from typing import Any

import pytest

from deploy.devcluster.cluster_api import Obj
from deploy.devcluster.kubelet.pod.atomic_directory import AtomicDirectory
from deploy.devcluster.kubelet.pod.volume_payload import VolumeFile
from deploy.devcluster.kubelet.pod.volumes import API_ACCESS_PATH
from shared.errors import BadInputError
from tests.unit.devcluster_kubelet.machine import container, node, pod, ready, status_of
from tests.waiting import eventually


def config(name: str, **data: str) -> Obj:
    return {
        "apiVersion": "v1",
        "kind": "ConfigMap",
        "metadata": {"name": name, "namespace": "default"},
        "data": data,
    }


def mounting(path: str, volume: Obj, **fields: Any) -> tuple[Obj, list[Obj]]:
    return container(volumeMounts=[{"name": "v", "mountPath": path} | fields]), [{"name": "v"} | volume]


async def test_a_pod_waits_for_its_config_map_and_goes_on_when_it_appears(tmp_path: Path) -> None:
    async with node(tmp_path) as stage:
        main, volumes = mounting("/etc/app", {"configMap": {"name": "settings"}})
        await stage.run(pod(main, volumes=volumes))
        found = await stage.until(
            "waiting", lambda found: "not found" in str(found.get("status", {}).get("containerStatuses"))
        )
        assert status_of(found, "main")["state"]["waiting"]["reason"] == "ContainerCreating"
        await stage.cluster.create("configmaps", config("settings", key="value"))
        process = await stage.until_started("main")
        source = process.mounts["/etc/app"].source
        assert (source / "key").read_text() == "value"


async def test_a_changed_config_map_is_seen_at_once_in_one_step(tmp_path: Path) -> None:
    async with node(tmp_path) as stage:
        await stage.cluster.create("configmaps", config("settings", key="one", old="x"))
        main, volumes = mounting("/etc/app", {"configMap": {"name": "settings"}})
        await stage.run(pod(main, volumes=volumes))
        source = (await stage.until_started("main")).mounts["/etc/app"].source
        change: Obj = {"data": {"key": "two", "old": None, "new": "y"}}
        await stage.cluster.patch("configmaps", "default", "settings", change)
        await eventually(lambda: (source / "key").read_text() == "two", within=5, what="the new value is there")
        assert sorted(entry.name for entry in source.iterdir() if not entry.name.startswith("..")) == ["key", "new"]
        assert (source / "..data").is_symlink()
        assert (source / "key").readlink() == Path("..data/key")


async def test_a_projected_token_is_bound_private_and_renewed(tmp_path: Path) -> None:
    async with node(tmp_path, token_lifetime=1.5) as stage:
        token = {"serviceAccountToken": {"path": "token", "audience": "meshlog", "expirationSeconds": 600}}
        main, volumes = mounting("/var/run/mesh", {"projected": {"sources": [token]}})
        await stage.run(pod(main, volumes=volumes))
        source = (await stage.until_started("main")).mounts["/var/run/mesh"].source
        assert stage.tokens[0] == ("meshlog", 600)
        assert (source / "token").read_text() == "token 1 for meshlog", "and no newline at its end"
        assert stat.S_IMODE((source / "token").stat().st_mode) == 0o600
        await eventually(lambda: (source / "token").read_text() != "token 1 for meshlog", within=5, what="a new token")


async def test_every_pod_gets_its_way_to_the_api_unless_it_declines(tmp_path: Path) -> None:
    async with node(tmp_path) as stage:
        await stage.cluster.create("configmaps", config("kube-root-ca.crt", **{"ca.crt": "PEM"}))
        await stage.run(pod(name="asks", automountServiceAccountToken=True))
        source = (await stage.until_started("main")).mounts[API_ACCESS_PATH].source
        assert {path.name: path.read_text() for path in source.iterdir() if not path.name.startswith("..")} == {
            "token": "token 1 for ",
            "ca.crt": "PEM",
            "namespace": "default",
        }
        await stage.run(pod(name="declines"))
        assert (await stage.until_started("main", times=2)).mounts == {}


async def test_secrets_downward_api_and_items_become_files(tmp_path: Path) -> None:
    async with node(tmp_path) as stage:
        secret: Obj = {
            "apiVersion": "v1",
            "kind": "Secret",
            "metadata": {"name": "s", "namespace": "default"},
            "stringData": {"password": "hush"},
        }
        await stage.cluster.create("secrets", secret)
        sources = [
            {"secret": {"name": "s", "items": [{"key": "password", "path": "deep/password", "mode": 0o400}]}},
            {"downwardAPI": {"items": [{"path": "labels", "fieldRef": {"fieldPath": "metadata.labels"}}]}},
            {"configMap": {"name": "absent", "optional": True}},
        ]
        main, volumes = mounting("/etc/app", {"projected": {"sources": sources}})
        await stage.run(pod(main, volumes=volumes))
        source = (await stage.until_started("main")).mounts["/etc/app"].source
        assert (source / "deep/password").read_text() == "hush"
        assert stat.S_IMODE((source / "deep/password").stat().st_mode) == 0o400
        assert (source / "labels").read_text() == 'app="web"'


async def test_empty_dirs_are_shared_and_survive_restarts_and_sub_paths_stay_inside(tmp_path: Path) -> None:
    async with node(tmp_path) as stage:
        mount = [{"name": "v", "mountPath": "/data", "subPathExpr": "$(WHO)/x", "readOnly": True}]
        main = container(volumeMounts=mount, env=[{"name": "WHO", "value": "me"}])
        other = container("other", volumeMounts=[{"name": "v", "mountPath": "/all"}])
        await stage.run(pod(main, other, volumes=[{"name": "v", "emptyDir": {}}]))
        first, second = await stage.until_started("main"), await stage.until_started("other")
        assert first.mounts["/data"].source == second.mounts["/all"].source / "me" / "x"
        assert first.mounts["/data"].read_only
        first.end(1)
        again = await stage.until_started("main", times=2)
        assert again.mounts == first.mounts


@pytest.mark.parametrize("inside", ["", "/pods", "/nats", "/claims/other/data"])
async def test_no_host_path_leads_into_the_state_directory(tmp_path: Path, inside: str) -> None:
    """Not by a link either: it holds every key, token and volume of the mesh."""
    state = tmp_path / "state"
    state.mkdir()
    (tmp_path / "way").symlink_to(state)
    async with node(tmp_path) as stage:
        main, volumes = mounting(
            "/data", {"hostPath": {"path": f"{tmp_path}/way{inside}", "type": "DirectoryOrCreate"}}
        )
        await stage.run(pod(main, volumes=volumes))
        found = await stage.until("refused", lambda found: "state directory" in str(found.get("status")))
        assert status_of(found, "main")["state"]["waiting"]["reason"] == "ContainerCreating"
        assert list(state.iterdir()) == []
        assert stage.machine.started == []


async def test_a_sub_path_makes_nothing_behind_a_link_that_leads_out(tmp_path: Path) -> None:
    async with node(tmp_path) as stage:
        volume, elsewhere = tmp_path / "volume", tmp_path / "elsewhere"
        volume.mkdir()
        elsewhere.mkdir()
        (volume / "way").symlink_to(elsewhere)
        main, volumes = mounting("/data", {"hostPath": {"path": str(volume)}}, subPath="way/made")
        await stage.run(pod(main, volumes=volumes))
        await stage.until("refused", lambda found: "leads out of its volume" in str(found.get("status")))
        assert list(elsewhere.iterdir()) == []


async def test_a_pod_waits_for_its_claim_to_be_there_and_bound_and_leaves_its_files(tmp_path: Path) -> None:
    async with node(tmp_path) as stage:
        main, volumes = mounting("/data", {"persistentVolumeClaim": {"claimName": "data-web-0"}})
        await stage.run(pod(main, volumes=volumes))
        said = 'persistentvolumeclaim "data-web-0"'
        await stage.until("waiting", lambda found: f"{said} not found" in str(found.get("status")))
        claim: Obj = {"metadata": {"name": "data-web-0", "namespace": "default"}, "spec": {}}
        await stage.cluster.create("persistentvolumeclaims", claim)
        await stage.until("waiting", lambda found: f"{said} is not bound yet" in str(found.get("status")))
        directory = tmp_path / "claims" / "default" / "data-web-0"
        directory.mkdir(parents=True)
        status: Obj = {"status": {"phase": "Bound"}}
        await stage.cluster.patch("persistentvolumeclaims", "default", "data-web-0", status, subresource="status")
        source = (await stage.until_started("main")).mounts["/data"].source
        assert source == directory
        (source / "kept").touch()
        await stage.until("ready", ready)
        await stage.cluster.delete("pods", "default", "pod")
        await stage.until_gone()
        assert (source / "kept").exists()
        await stage.cluster.delete("persistentvolumeclaims", "default", "data-web-0")
        await stage.run(pod(main, volumes=volumes))
        await stage.until("waiting", lambda found: f"{said} is being deleted" in str(found.get("status")))


def test_a_path_cannot_lead_out_of_its_volume(tmp_path: Path) -> None:
    for bad in ("../x", "/etc/x", "a/../../x", "..data"):
        with pytest.raises(BadInputError, match="may not be a path inside a volume"):
            AtomicDirectory(tmp_path).write({bad: VolumeFile(b"", 0o644)})


def test_equal_files_are_not_written_again(tmp_path: Path) -> None:
    directory = AtomicDirectory(tmp_path / "v")
    assert directory.write({"a": VolumeFile(b"1", 0o644)})
    before = (tmp_path / "v" / "..data").readlink()
    assert not directory.write({"a": VolumeFile(b"1", 0o644)})
    assert (tmp_path / "v" / "..data").readlink() == before
