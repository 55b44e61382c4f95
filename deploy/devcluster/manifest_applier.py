"""Sets up a new cluster: namespaces, the Service `kubernetes`, definitions, manifests."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Protocol

from deploy.devcluster.cluster_api import Cluster, KubeApiError, Obj
from deploy.devcluster.manifest_files import Manifest
from deploy.devcluster.settings import API_PORT, API_SERVICE
from shared.errors import BadInputError
from shared.names import MESH_NAMESPACE

DEFINITIONS = Path(__file__).parent.parent / "crds"
_MANAGER = "meshlog"


class ManifestApplier(Cluster, Protocol):
    """A cluster that can apply objects as `kubectl apply --server-side --force-conflicts` does."""

    async def transact(self, objects: Sequence[Obj], *, manager: str = "devcluster") -> list[Obj]:
        """Apply all objects in one commit."""
        ...


async def create_basics(cluster: Cluster, node_ip: str) -> None:
    """Create the default namespaces, and the Service `kubernetes` with its endpoint."""
    for name in ("default", "kube-system", "kube-public", MESH_NAMESPACE):
        if await cluster.get("namespaces", "", name) is None:
            await cluster.create("namespaces", {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name}})
    metadata: Obj = {"name": "kubernetes", "namespace": "default", "labels": {"component": "apiserver"}}
    port: Obj = {"name": "https", "port": API_SERVICE[1], "protocol": "TCP", "targetPort": API_PORT}
    service: Obj = {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": metadata,
        "spec": {"clusterIP": API_SERVICE[0], "ports": [port]},
    }
    endpoints: Obj = {
        "apiVersion": "discovery.k8s.io/v1",
        "kind": "EndpointSlice",
        "metadata": metadata | {"labels": {"kubernetes.io/service-name": "kubernetes"}},
        "addressType": "IPv4",
        "endpoints": [{"addresses": [node_ip], "conditions": {"ready": True}}],
        "ports": [{"name": "https", "port": API_PORT, "protocol": "TCP"}],
    }
    await cluster.create("services", service)
    await cluster.create("endpointslices.discovery.k8s.io", endpoints)


async def apply(cluster: ManifestApplier, manifests: Iterable[Manifest]) -> None:
    """Apply objects one by one. Raises `BadInputError` with file and object if the API rejects one."""
    for manifest in manifests:
        try:
            await cluster.transact([manifest.obj], manager=_MANAGER)
        except KubeApiError as error:
            raise BadInputError("devcluster/manifest", error.sentence, about=manifest.title) from error
