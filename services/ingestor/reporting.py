"""Reports over the Kubernetes API: a patch of the status sub-resource, and events beside the object.

Objects whose CRD has no such sub-resource (some of those that people installed for Open Service Mesh) get events only.
"""

from __future__ import annotations

import asyncio
import hashlib
import logging
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any, Protocol

from services.ingestor.book import Book
from services.ingestor.conditions import Condition
from services.ingestor.facts import Fact, Projected
from services.ingestor.kinds import REPORTED, Kind, kinds
from services.ingestor.reach import Reach
from services.ingestor.reporter import Outcome, Report, Reporter
from services.ingestor.settings import IngestorSettings
from services.ingestor.source import SourceError
from shared import process
from shared.eventlog.protocol import Logs
from shared.status import STATES
from shared.telemetry.metrics import Labels

_log = logging.getLogger(__name__)

MANAGER = "meshlog-ingestor"
_MAX_NOTE = 1024
_NAMED = 5
"""Proxies that a remark names."""


async def report(
    context: process.Context[IngestorSettings], logs: Logs, api: Writing, book: Book, *, leads: Callable[[], bool]
) -> Callable[[Fact], None]:
    """Start reporting beside the ingestor; what has to be told of every fact."""
    settings = context.settings
    streams = settings.streams
    watched = {kind.name: kind for kind in kinds(mesh_namespace=settings.namespace)}
    reach = Reach(cluster=settings.cluster, kinds=REPORTED)
    reporter = Reporter(
        reach,
        book,
        ReportWriter(api, watched, now=_now),
        cluster=settings.cluster,
        kinds=REPORTED,
        mesh_namespace=settings.namespace,
        now=_now,
        clock=asyncio.get_running_loop().time,
        leads=leads,
    )
    snapshots, keyframes, statuses = [
        await logs.open(name) for name in (streams.snapshots, streams.keyframes, streams.status)
    ]
    context.spawn(reporter.follow_commits(snapshots, keyframes, streams), "commits")
    context.spawn(reporter.follow_statuses(statuses, streams), "statuses")
    context.spawn(reporter.run(), "reports")
    context.metrics.gauge(
        "meshlog_ingestor_reports",
        "Statuses written back on policy objects, since the start",
        lambda: {(("outcome", outcome),): float(count) for outcome, count in reporter.counts.items()},
    )
    context.metrics.gauge(
        "meshlog_mesh_proxies",
        "Proxies by how they stand, as the ingestor that leads sees them.",
        lambda: _standing(reach) if leads() else {},
    )
    context.spawn(_remark(context, reach), "remarks")
    return reporter.note


def _standing(reach: Reach) -> dict[Labels, float]:
    states = reach.states()
    return {(("state", state),): float(len(states.get(state, ()))) for state in STATES}


async def _remark(context: process.Context[IngestorSettings], reach: Reach) -> None:
    """Have `/readyz` name the proxies that are not in sync."""
    while True:
        states = reach.states()
        said = [f"{len(states[state])} {state}: {_some(states[state])}" for state in STATES[1:] if state in states]
        context.remark("proxies", "; ".join(said))
        await asyncio.sleep(1.0)


def _some(names: list[str]) -> str:
    return ", ".join(names[:_NAMED]) + (f" and {len(names) - _NAMED} more" if len(names) > _NAMED else "")


def _now() -> str:
    return datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


class Writing(Protocol):
    """Requests that change something."""

    async def send(self, method: str, path: str, body: Any, content_type: str) -> int:
        """One request; the status of its answer. Raises `SourceError` if there is none, or 401, 429 or 5xx."""
        ...


class ReportWriter:
    """Callable as a `Reporter` wants it."""

    def __init__(self, api: Writing, kinds: Mapping[str, Kind], *, now: Callable[[], str]) -> None:
        """`now` is RFC 3339."""
        self._api = api
        self._kinds = kinds
        self._now = now

    async def __call__(self, report: Report) -> Outcome:
        """Write one report."""
        try:
            status = await self._patch(report)
            for reason, message in report.news:
                await self._tell(report.object, reason, message)
        except SourceError as error:
            _log.warning("a status cannot be written now", extra={"why": error.failure.why})
            return "later"
        if status < 300:
            return "written"
        _log.info(
            "a status was not taken",
            extra={"kind": report.object.kind, "object": str(report.object.name), "status": status},
        )
        return "refused"

    async def _patch(self, report: Report) -> int:
        item = report.object
        kind, version = self._kinds[item.kind], item.api_version.rpartition("/")[2]
        path = f"/apis/{kind.group}/{version}/namespaces/{item.name.namespace}/{kind.plural}/{item.name.name}/status"
        return await self._api.send("PATCH", path, _patch(item, report.conditions), "application/json-patch+json")

    async def _tell(self, item: Projected, reason: str, message: str) -> None:
        digest = hashlib.sha256(f"{item.uid}/{reason}/{message}".encode()).hexdigest()[:16]
        now = self._now()
        event: dict[str, Any] = {
            "apiVersion": "v1",
            "kind": "Event",
            # The same news has the same name: told again, it is refused as being there.
            "metadata": {"name": f"{item.name.name[:200]}.{digest}", "namespace": item.name.namespace},
            "involvedObject": {
                "apiVersion": item.api_version,
                "kind": item.kind,
                "namespace": item.name.namespace,
                "name": item.name.name,
                "uid": item.uid,
                "resourceVersion": item.resource_version,
            },
            "type": "Warning",
            "reason": reason,
            "message": message[:_MAX_NOTE],
            "source": {"component": MANAGER},
            "reportingComponent": MANAGER,
            "firstTimestamp": now,
            "lastTimestamp": now,
            "count": 1,
        }
        path = f"/api/v1/namespaces/{item.name.namespace}/events"
        await self._api.send("POST", path, event, "application/json")


def _patch(item: Projected, told: Sequence[Condition]) -> list[dict[str, Any]]:
    """Makes sure that the successor of an object is not told its fate.

    A merge patch with the uid in it would not: the API server ignores metadata in a patch of a status.
    """
    whole = not item.status.startswith(b"{")
    value = {"conditions": list(told)} if whole else list(told)
    return [
        {"op": "test", "path": "/metadata/uid", "value": item.uid},
        {"op": "add", "path": "/status" if whole else "/status/conditions", "value": value},
    ]
