"""Deletions that a client steers: propagation, preconditions, dry run."""

from __future__ import annotations

import pytest

from deploy.devcluster.apiserver import ApiServer
from deploy.devcluster.apiserver.kinds.kind_registry import ResourceTarget
from deploy.devcluster.apiserver.status_errors import StatusError
from deploy.devcluster.apiserver.write.write_options import DeleteOptions, WriteOptions
from tests.unit.devcluster_api.objects import config_map
from tests.unit.devcluster_api.test_cluster import owned


def target(api: ApiServer, name: str) -> ResourceTarget:
    found = api.kinds.at("", "v1", "configmaps")
    assert found is not None
    return ResourceTarget(*found, "default", name)


async def delete(api: ApiServer, name: str, deletion: DeleteOptions, options: WriteOptions | None = None) -> bool:
    """Whether it is gone at once."""
    return (await api.writer.deleter.delete(target(api, name), options or WriteOptions(), deletion))[1]


async def test_orphans_lose_their_owner_and_stay(api: ApiServer) -> None:
    await owned(api)
    assert await delete(api, "owner", DeleteOptions(propagation="Orphan"))
    child = await api.cluster.get("configmaps", "default", "child")
    assert child is not None
    assert "ownerReferences" not in child["metadata"]


async def test_a_foreground_deletion_takes_the_dependents_first(api: ApiServer) -> None:
    _owner, child = await owned(api)
    await api.cluster.patch("configmaps", "default", "child", {"metadata": {"finalizers": ["example.org/hold"]}})
    assert not await delete(api, "owner", DeleteOptions(propagation="Foreground"))
    held = await api.cluster.get("configmaps", "default", "owner")
    assert held is not None
    assert held["metadata"]["finalizers"] == ["foregroundDeletion"]
    await api.cluster.patch("configmaps", "default", "child", {"metadata": {"finalizers": None}})
    assert await api.cluster.get("configmaps", "default", child["metadata"]["name"]) is None
    assert await api.cluster.get("configmaps", "default", "owner") is None


async def test_preconditions_protect_another_object_of_the_name(api: ApiServer) -> None:
    await api.cluster.create("configmaps", config_map())
    for deletion in (DeleteOptions(uid="other"), DeleteOptions(resource_version="1")):
        with pytest.raises(StatusError) as refusal:
            await delete(api, "m", deletion)
        assert refusal.value.status == 409


async def test_a_dry_run_deletes_nothing(api: ApiServer) -> None:
    await api.cluster.create("configmaps", config_map())
    assert await delete(api, "m", DeleteOptions(), WriteOptions(dry_run=True))
    assert await api.cluster.get("configmaps", "default", "m")


async def test_a_permanent_namespace_stays(api: ApiServer) -> None:
    with pytest.raises(StatusError, match="may not be deleted"):
        await api.cluster.delete("namespaces", "", "default")
