"""Events live for an hour, as in Kubernetes: what happened is news, and must not fill the memory.

No timer: each new event lets old ones go, at most once a minute.
"""

from __future__ import annotations

from deploy.devcluster.apiserver.object_store import ObjectWrite, Store
from deploy.devcluster.apiserver.write.write_options import timestamp

EVENT_SECONDS = 3600.0
_SWEEP_SECONDS = 60.0
_RESOURCE = "events"


class EventExpiry:
    """Removes events that are over."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._swept = 0.0

    def sweep(self, now: float) -> None:
        """Remove what is older than an hour, if the last look was a minute ago."""
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
