"""Removes Events after one hour, as Kubernetes does.

There is no timer: writing an Event removes expired ones, at most once a minute.
"""

from __future__ import annotations

from deploy.devcluster.apiserver.object_store import ObjectWrite, Store
from deploy.devcluster.apiserver.write.write_options import timestamp

EVENT_SECONDS = 3600.0
_SWEEP_SECONDS = 60.0
_RESOURCE = "events"


class EventExpiry:
    """Removes expired Events."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._swept = 0.0

    def sweep(self, now: float) -> None:
        """Remove Events older than an hour, unless the last sweep was less than a minute ago."""
        if 0 <= now - self._swept < _SWEEP_SECONDS:
            return
        self._swept = now
        oldest = timestamp(now - EVENT_SECONDS)
        writes: list[ObjectWrite] = []
        for stored in self._store.items(_RESOURCE):
            metadata = stored.obj["metadata"]
            last = stored.obj.get("lastTimestamp") or metadata["creationTimestamp"]
            if str(last) < oldest and metadata["creationTimestamp"] < oldest:
                obj = {**stored.obj, "metadata": dict(metadata)}
                writes.append(ObjectWrite(_RESOURCE, (metadata["namespace"], metadata["name"]), obj, remove=True))
        self._store.commit(writes)
