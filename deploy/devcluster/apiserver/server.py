"""The API server, assembled: store, kinds, admission, writer; and the HTTP listeners over them."""

from __future__ import annotations

import time
from collections.abc import Callable

from deploy.devcluster.apiserver.admission import Admission, ResolveService
from deploy.devcluster.apiserver.builtin import built_in
from deploy.devcluster.apiserver.kinds import Kinds
from deploy.devcluster.apiserver.local import LocalCluster
from deploy.devcluster.apiserver.store import Store
from deploy.devcluster.apiserver.writing import Writer


class ApiServer:
    """One Kubernetes API, in memory."""

    def __init__(
        self,
        *,
        window: int = 1000,
        resolve_service: ResolveService | None = None,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self.store = Store(window=window)
        self.kinds = Kinds(built_in())
        self._admission = Admission(self.store, resolve_service or self._cluster_ip)
        self.writer = Writer(self.store, self.kinds, self._admission, clock=clock)
        self._cluster = LocalCluster(self.store, self.kinds, self.writer)

    @property
    def cluster(self) -> LocalCluster:
        """The API, in-process."""
        return self._cluster

    async def start(self) -> None:
        """Create the namespaces that every cluster has, and listen."""
        for name in ("default", "kube-system", "kube-public", "kube-node-lease"):
            await self._cluster.create("namespaces", {"metadata": {"name": name}})

    async def stop(self) -> None:
        """Close everything."""
        await self._admission.close()

    async def _cluster_ip(self, namespace: str, name: str, port: int) -> tuple[str, int]:
        """Where a webhook's Service is: its ClusterIP."""
        service = self.store.get("services", namespace, name)
        address = (service.obj["spec"].get("clusterIP") or "") if service else ""
        if not address or address == "None":
            raise OSError(f'service "{name}" not found in namespace "{namespace}", or it has no address yet')
        return address, port
