"""Writes reports to the Kubernetes API: patches of the status sub-resource, and events about the object.

Objects whose CRD lacks that sub-resource (some CRDs installed for Open Service Mesh) get events only.
"""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol

from services.ingestor.core.kinds import WatchedKind
from services.ingestor.core.observations import Projected
from services.ingestor.kubernetes.object_source import SourceError
from services.ingestor.status.conditions import Condition
from services.ingestor.status.reports import ConditionReport, ObjectEvent, Outcome, RetryLater
from shared.names import INGESTOR

_log = logging.getLogger(__name__)

MANAGER = INGESTOR
_MAX_NOTE = 1024


class ApiSender(Protocol):
    """Sends requests that change objects."""

    async def send(self, method: str, path: str, body: Any, content_type: str) -> int:
        """Send a request; returns the HTTP status.

        Raises `SourceError` if there is no answer, or its status is 401, 429 or 5xx.
        """
        ...


class StatusWriter:
    """The writing side of a `ConditionReporter`."""

    def __init__(self, api: ApiSender, kinds: Mapping[str, WatchedKind], *, now: Callable[[], str]) -> None:
        """`now` is RFC 3339."""
        self._api = api
        self._kinds = kinds
        self._now = now

    async def __call__(self, report: ConditionReport) -> Outcome | RetryLater:
        """Write the conditions of one object."""
        item = report.object
        try:
            status = await self._patch(report)
        except SourceError as error:
            _log.warning("a status cannot be written now", extra={"why": error.failure.why})
            return RetryLater(error.failure.retry_after)
        if status < 300:
            return Outcome.WRITTEN
        _log.info("a status was not taken", extra={"kind": item.kind, "object": str(item.name), "status": status})
        return Outcome.REFUSED

    async def _patch(self, report: ConditionReport) -> int:
        item = report.object
        kind, version = self._kinds[item.kind], item.api_version.rpartition("/")[2]
        path = f"/apis/{kind.group}/{version}/namespaces/{item.name.namespace}/{kind.plural}/{item.name.name}/status"
        return await self._api.send("PATCH", path, _patch(item, report.conditions), "application/json-patch+json")

    async def write_event(self, event: ObjectEvent) -> Outcome | RetryLater:
        """Write one event about an object."""
        kind = self._kinds[event.kind]
        built_in = f"{kind.group}/{kind.version}" if kind.group else kind.version
        # Kubernetes keeps events about cluster-scoped objects in `default`.
        namespace = event.name.namespace or "default"
        digest = hashlib.sha256(f"{event.uid}/{event.reason}/{event.message}".encode()).hexdigest()[:16]
        now = self._now()
        body: dict[str, Any] = {
            "apiVersion": "v1",
            "kind": "Event",
            # Equal events have equal names: the API server refuses a repeated one as existing.
            "metadata": {"name": f"{event.name.name[:200]}.{digest}", "namespace": namespace},
            "involvedObject": {
                "apiVersion": event.api_version or built_in,
                "kind": event.kind,
                **({"namespace": event.name.namespace} if event.name.namespace else {}),
                "name": event.name.name,
                "uid": event.uid,
                "resourceVersion": event.resource_version,
            },
            "type": "Warning",
            "reason": event.reason,
            "message": event.message[:_MAX_NOTE],
            "source": {"component": MANAGER},
            "reportingComponent": MANAGER,
            "firstTimestamp": now,
            "lastTimestamp": now,
            "count": 1,
        }
        try:
            status = await self._api.send("POST", f"/api/v1/namespaces/{namespace}/events", body, "application/json")
        except SourceError as error:
            _log.warning("an event cannot be written now", extra={"why": error.failure.why})
            return RetryLater(error.failure.retry_after)
        return Outcome.WRITTEN if status < 300 else Outcome.REFUSED


def _patch(item: Projected, conditions: Sequence[Condition]) -> list[dict[str, Any]]:
    """Returns a JSON patch that fails if another object has replaced this one under its name.

    A merge patch with the uid would not fail: the API server ignores metadata in a patch of a status.
    """
    whole = not item.status.startswith(b"{")
    value = {"conditions": list(conditions)} if whole else list(conditions)
    return [
        {"op": "test", "path": "/metadata/uid", "value": item.uid},
        {"op": "add", "path": "/status" if whole else "/status/conditions", "value": value},
    ]
