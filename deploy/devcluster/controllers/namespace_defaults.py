"""The namespace controller: creates the ServiceAccount `default` and the ConfigMap `kube-root-ca.crt`."""

from __future__ import annotations

import asyncio

from deploy.devcluster import object_fields
from deploy.devcluster.cluster_api import Cluster, KubeApiError, Obj
from deploy.devcluster.object_fields import ROOT_CA, Key


class NamespaceDefaults:
    """Reconciles the default objects of namespaces."""

    def __init__(self, cluster: Cluster, *, ca_certificate: str) -> None:
        self._cluster = cluster
        self._ca = ca_certificate

    async def reconcile(self, key: Key) -> float | None:
        """Create missing default objects, and restore changed ones."""
        found = await self._cluster.get("namespaces", "", key[1])
        if found is None or object_fields.is_terminating(found):
            return None
        await asyncio.gather(self._account(key[1]), self._root_ca(key[1]))
        return None

    async def _account(self, namespace: str) -> None:
        if await self._cluster.get("serviceaccounts", namespace, "default") is not None:
            return
        account = {
            "apiVersion": "v1",
            "kind": "ServiceAccount",
            "metadata": {"name": "default", "namespace": namespace},
        }
        await _create(self._cluster, "serviceaccounts", account)

    async def _root_ca(self, namespace: str) -> None:
        found = await self._cluster.get("configmaps", namespace, ROOT_CA)
        data = {"ca.crt": self._ca}
        if found is None:
            config = {
                "apiVersion": "v1",
                "kind": "ConfigMap",
                "metadata": {"name": ROOT_CA, "namespace": namespace},
                "data": data,
            }
            await _create(self._cluster, "configmaps", config)
        elif found.get("data") != data:
            await self._cluster.patch("configmaps", namespace, ROOT_CA, {"data": data})


async def _create(cluster: Cluster, resource: str, obj: Obj) -> None:
    try:
        await cluster.create(resource, obj)
    except KubeApiError as error:
        if error.reason != "AlreadyExists":
            raise
