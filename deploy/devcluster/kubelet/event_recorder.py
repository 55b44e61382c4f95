"""Records Events about pods, for `kubectl describe` and `kubectl get events`. A repeated Event increments its count."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable
from typing import Literal

import msgspec

from deploy.devcluster import object_fields
from deploy.devcluster.cluster_api import Cluster, KubeApiError, Obj

_log = logging.getLogger(__name__)
_KEPT_FOR = 600.0
_WAITING_AT_MOST = 200


class PodEvent(msgspec.Struct, frozen=True):
    """An Event about a pod."""

    namespace: str
    pod: str
    uid: str
    kind: str
    reason: str
    message: str


class EventRecorder:
    """Writes Events in the background. Drops Events if too many wait: they inform users, no program needs them."""

    def __init__(self, cluster: Cluster, *, node: str, now: Callable[[], float] = time.time) -> None:
        self._cluster = cluster
        self._node = node
        self._now = now
        self._waiting: asyncio.Queue[PodEvent] = asyncio.Queue(_WAITING_AT_MOST)
        self._counts: dict[PodEvent, tuple[str, int]] = {}

    def record(self, pod: Obj, kind: Literal["Normal", "Warning"], reason: str, message: str) -> None:
        """Enqueue an Event about this pod."""
        entry = PodEvent(
            object_fields.namespace(pod), object_fields.name(pod), object_fields.uid(pod), kind, reason, message[:1024]
        )
        try:
            self._waiting.put_nowait(entry)
        except asyncio.QueueFull:
            _log.debug("dropped an event about %s/%s: %s", entry.namespace, entry.pod, reason)

    def forget(self, pod: Obj) -> None:
        """Delete the Events of a removed pod after 10 minutes."""
        for entry in [entry for entry in self._counts if entry.uid == object_fields.uid(pod)]:
            name, _ = self._counts.pop(entry)
            asyncio.get_running_loop().call_later(_KEPT_FOR, self._schedule_removal, entry.namespace, name)

    async def run(self) -> None:
        """Write enqueued Events for ever."""
        while True:
            entry = await self._waiting.get()
            try:
                await self._write(entry)
            except KubeApiError as error:
                _log.debug("no event about %s/%s: %s", entry.namespace, entry.pod, error)

    async def _write(self, entry: PodEvent) -> None:
        stamp = object_fields.timestamp(self._now())
        name, count = self._counts.get(entry, ("", 0))
        if name:
            self._counts[entry] = name, count + 1
            merge = {"count": count + 1, "lastTimestamp": stamp}
            await self._cluster.patch("events", entry.namespace, name, merge)
            return
        name = f"{entry.pod}.{object_fields.safe_hash([entry.uid, entry.reason, entry.message], 16)}"
        self._counts[entry] = name, 1
        event: Obj = {
            "apiVersion": "v1",
            "kind": "Event",
            "metadata": {"name": name, "namespace": entry.namespace},
            "involvedObject": {
                "apiVersion": "v1",
                "kind": "Pod",
                "namespace": entry.namespace,
                "name": entry.pod,
                "uid": entry.uid,
            },
            "type": entry.kind,
            "reason": entry.reason,
            "message": entry.message,
            "count": 1,
            "firstTimestamp": stamp,
            "lastTimestamp": stamp,
            "source": {"component": "kubelet", "host": self._node},
            "reportingComponent": "kubelet",
            "reportingInstance": self._node,
        }
        await self._cluster.create("events", event)

    def _schedule_removal(self, namespace: str, name: str) -> None:
        self._removal = asyncio.create_task(self._cluster.delete("events", namespace, name))
