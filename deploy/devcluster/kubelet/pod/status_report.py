"""Writes the status of one pod when it changed; coalesces changes, and skips an unchanged status."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable

from deploy.devcluster import object_fields
from deploy.devcluster.cluster_api import Cluster, KubeApiError, Obj
from deploy.devcluster.kubelet.pod.pod_status import PodView, status_of

_log = logging.getLogger(__name__)
_RETRY = 0.5
_OWN_CONDITIONS = frozenset({"PodScheduled", "Initialized", "ContainersReady", "Ready"})


class StatusReport:
    """Writes the status of one pod, and remembers the last one written."""

    def __init__(
        self,
        cluster: Cluster,
        pod: Callable[[], Obj],
        view: Callable[[], PodView],
        *,
        now: Callable[[], float] = time.time,
    ) -> None:
        self._cluster = cluster
        self._pod = pod
        self._view = view
        self._now = now
        self._dirty = asyncio.Event()
        self._written: Obj = {}

    def touch(self) -> None:
        """Request a write."""
        self._dirty.set()

    async def run(self) -> None:
        """Write after each request, for ever."""
        while True:
            await self._dirty.wait()
            self._dirty.clear()
            try:
                await self.write()
            except KubeApiError as error:
                if error.status in {404, 409}:
                    continue  # removed, or replaced by a pod with another UID: an event follows
                _log.warning("status of %s/%s: %s", *object_fields.key(self._pod()), error)
                await asyncio.sleep(_RETRY)
                self._dirty.set()

    async def write(self) -> None:
        """Write the current status unless it was written already. Raises `KubeApiError`."""
        status = status_of(self._with_known_conditions(), self._view(), now=self._now())
        if status == self._written:
            return
        merge = status | {field: None for field in self._written if field not in status}
        pod = self._pod()
        patch = {"metadata": {"uid": object_fields.uid(pod)}, "status": merge}
        await self._cluster.patch("pods", *object_fields.key(pod), patch, subresource="status")
        self._written = status

    def _with_known_conditions(self) -> Obj:
        """The pod with the kubelet's conditions as last written (the cache may lag) and other conditions as cached."""
        pod = self._pod()
        status: Obj = pod.get("status") or {}
        ours: dict[str, Obj] = {each["type"]: each for each in self._written.get("conditions") or []}
        conditions = [each for kind, each in ours.items() if kind in _OWN_CONDITIONS]
        conditions += [
            each
            for each in status.get("conditions") or []
            if each["type"] not in _OWN_CONDITIONS or each["type"] not in ours
        ]
        return pod | {"status": status | {"conditions": conditions}}
