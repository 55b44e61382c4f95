"""Objects that outlive the devcluster: what is kept, for whom to read, and what a damaged file gives."""

from __future__ import annotations

import asyncio
import contextlib
import stat
from collections.abc import AsyncGenerator
from pathlib import Path

import pytest

from deploy.devcluster import manifest_applier, manifest_files
from deploy.devcluster.apiserver import ApiServer
from deploy.devcluster.cluster_api import Obj
from deploy.devcluster.persisted_objects import ObjectPersistence
from deploy.devcluster.settings import KeptObjects, parse
from shared.errors import BadInputError
from tests.waiting import eventually

ROOTS = "meshrootcertificates.config.openservicemesh.io"
KEPT = (KeptObjects("secrets", "home", "keys"), KeptObjects(ROOTS, "home"))


def secret(name: str, value: str) -> Obj:
    metadata = {"name": name, "namespace": "home", "labels": {"of": "ca"}}
    return {"apiVersion": "v1", "kind": "Secret", "metadata": metadata, "type": "Opaque", "data": {"key": value}}


def root(name: str) -> Obj:
    spec = {"role": "active", "trustDomain": "cluster.local", "provider": {"builtin": {}}}
    return {
        "apiVersion": "config.openservicemesh.io/v1alpha2",
        "kind": "MeshRootCertificate",
        "metadata": {"name": name, "namespace": "home"},
        "spec": spec,
    }


@contextlib.asynccontextmanager
async def cluster(directory: Path) -> AsyncGenerator[tuple[ApiServer, int]]:
    """An API server with its keepsakes put back, and how many those were."""
    api = ApiServer()
    await api.start()
    await api.cluster.create("namespaces", {"metadata": {"name": "home"}})
    await manifest_applier.apply(api.cluster, manifest_files.read([manifest_applier.DEFINITIONS]))
    keepsakes = ObjectPersistence(api.cluster, directory, KEPT)
    restored = await keepsakes.restore()
    running = [asyncio.ensure_future(keepsakes.run(one)) for one in KEPT]
    try:
        yield api, restored
    finally:
        for task in running:
            task.cancel()
        await asyncio.gather(*running, return_exceptions=True)
        await api.stop()


async def test_what_is_kept_is_there_at_the_next_start_and_the_rest_is_not(tmp_path: Path) -> None:
    file = tmp_path / "secrets" / "home" / "keys.json"
    async with cluster(tmp_path) as (api, restored):
        assert restored == 0
        await api.cluster.create("secrets", secret("keys", "b25l"))
        await api.cluster.create("secrets", secret("others", "eA=="))
        await api.cluster.create(ROOTS, root("gone"))
        for name in ("second", "first"):
            await api.cluster.create(ROOTS, root(name))
        await api.cluster.patch("secrets", "home", "keys", {"data": {"key": "dHdv"}})
        await api.cluster.delete(ROOTS, "home", "gone")
        await eventually(lambda: file.exists() and b"dHdv" in file.read_bytes(), within=5, what="the change is kept")
        roots = tmp_path / ROOTS / "home"
        wanted = {"first.json", "second.json"}
        await eventually(lambda: {one.name for one in roots.iterdir()} == wanted, within=5, what="the end is kept")
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert {path.suffix for path in file.parent.iterdir()} == {".json"}
    async with cluster(tmp_path) as (api, restored):
        assert restored == 3
        held = await api.cluster.get("secrets", "home", "keys")
        assert held is not None
        assert (held["data"], held["metadata"]["labels"]) == ({"key": "dHdv"}, {"of": "ca"})
        assert await api.cluster.get("secrets", "home", "others") is None
        assert {one["metadata"]["name"] for one in (await api.cluster.list(ROOTS, "home"))[0]} == {"first", "second"}


@pytest.mark.parametrize("damage", [b"", b"{", b"[]", b"\xff", b'{"kind":"Secret","apiVersion":"v1","metadata":{}}'])
async def test_a_damaged_file_is_named_and_its_content_is_not(tmp_path: Path, damage: bytes) -> None:
    (tmp_path / "secrets" / "home").mkdir(parents=True)
    (tmp_path / "secrets" / "home" / "keys.json").write_bytes(damage)
    with pytest.raises(BadInputError, match=r"keys\.json"):
        async with cluster(tmp_path):
            pass
    assert (tmp_path / "secrets" / "home" / "keys.json").read_bytes() == damage


@pytest.mark.parametrize("text", ["secrets", "/home", "secrets/", "a/b/c/d"])
def test_a_setting_that_names_nothing_is_refused(text: str) -> None:
    with pytest.raises(BadInputError, match="--keep wants"):
        parse([f"--keep={text}"])


async def test_what_ended_while_nobody_looked_is_forgotten(tmp_path: Path) -> None:
    """A watch that fell behind begins anew: deletions between are told by nothing but the list."""
    api = ApiServer()
    await api.start()
    await manifest_applier.apply(api.cluster, manifest_files.read([manifest_applier.DEFINITIONS]))
    gone, other = tmp_path / ROOTS / "home" / "gone.json", tmp_path / "secrets" / "home" / "others.json"
    for file in (gone, other):
        file.parent.mkdir(parents=True)
        file.write_text("{}")
    running = [asyncio.ensure_future(ObjectPersistence(api.cluster, tmp_path, KEPT).run(one)) for one in KEPT]
    try:
        await eventually(lambda: not gone.exists(), within=5, what="the file of what is gone is removed")
        # It was never one of those that are kept.
        assert other.exists()
    finally:
        for task in running:
            task.cancel()
        await asyncio.gather(*running, return_exceptions=True)
        await api.stop()
