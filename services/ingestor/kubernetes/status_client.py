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

from services.ingestor.core.kinds import REPORTED, Kind, kinds
from services.ingestor.core.object_index import Book
from services.ingestor.core.observations import Fact, Projected
from services.ingestor.kubernetes.source import SourceError
from services.ingestor.settings import IngestorSettings
from services.ingestor.status.ack_progress import Reach
from services.ingestor.status.conditions import Condition
from services.ingestor.status.log_follower import Hearing
from services.ingestor.status.mesh_metrics import tell
from services.ingestor.status.reporter import Reporter
from services.ingestor.status.reports import Later, News, Outcome, Report
from shared.eventlog.protocol import Logs
from shared.names import INGESTOR
from shared.service import process

_log = logging.getLogger(__name__)

MANAGER = INGESTOR
_MAX_NOTE = 1024


async def report(
    context: process.Context[IngestorSettings],
    logs: Logs,
    api: Writing,
    book: Book,
    *,
    leads: Callable[[], bool],
    newest: Callable[[], int],
) -> Callable[[Fact], None]:
    """Start reporting beside the ingestor; what has to be told of every fact. `newest`: of the events in the log."""
    settings = context.settings
    streams = settings.streams
    watched = {kind.name: kind for kind in kinds(mesh_namespace=settings.namespace)}
    reach, writer = Reach(cluster=settings.cluster, kinds=REPORTED), ReportWriter(api, watched, now=_now)
    reporter = Reporter(
        reach,
        book,
        writer,
        writer.tell,
        cluster=settings.cluster,
        kinds=REPORTED,
        mesh_namespace=settings.namespace,
        now=_now,
        clock=asyncio.get_running_loop().time,
        leads=leads,
    )
    hearing = Hearing(reach, reporter, streams)
    snapshots, keyframes, statuses, leases, events = [
        await logs.open(name)
        for name in (streams.snapshots, streams.keyframes, streams.status, streams.leases, streams.events)
    ]
    context.spawn(hearing.follow_commits(snapshots, keyframes), "commits")
    context.spawn(hearing.follow_statuses(statuses), "statuses")
    context.spawn(hearing.follow_progress(leases), "progress")
    context.spawn(hearing.follow_pin(events, settings.cluster), "pin")
    context.spawn(reporter.run(), "reports")
    context.spawn(reporter.run_news(), "events of objects")
    context.metrics.gauge(
        "meshlog_ingestor_reports",
        "Statuses written back on policy objects, since the start",
        lambda: {(("outcome", outcome),): float(count) for outcome, count in reporter.counts.items()},
    )
    context.metrics.gauge(
        "meshlog_ingestor_reports_waiting",
        "Policy objects whose status is to be looked at",
        lambda: float(reporter.waiting),
    )
    context.metrics.gauge(
        "meshlog_ingestor_object_events",
        "Kubernetes events about objects, since the start; dropped: too many at once",
        lambda: {
            (("outcome", "told"),): float(reporter.events_told),
            (("outcome", "dropped"),): float(reporter.events_dropped),
        },
    )
    tell(context, reach, leads=leads, newest=newest)
    return reporter.note


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

    async def __call__(self, report: Report) -> Outcome | Later:
        """Write one report."""
        item = report.object
        try:
            status = await self._patch(report)
        except SourceError as error:
            _log.warning("a status cannot be written now", extra={"why": error.failure.why})
            return Later(error.failure.retry_after)
        if status < 300:
            return "written"
        _log.info("a status was not taken", extra={"kind": item.kind, "object": str(item.name), "status": status})
        return "refused"

    async def _patch(self, report: Report) -> int:
        item = report.object
        kind, version = self._kinds[item.kind], item.api_version.rpartition("/")[2]
        path = f"/apis/{kind.group}/{version}/namespaces/{item.name.namespace}/{kind.plural}/{item.name.name}/status"
        return await self._api.send("PATCH", path, _patch(item, report.conditions), "application/json-patch+json")

    async def tell(self, news: News) -> Outcome | Later:
        """Tell one event beside its object."""
        kind = self._kinds[news.kind]
        built_in = f"{kind.group}/{kind.version}" if kind.group else kind.version
        # Of objects that are in no namespace Kubernetes keeps events in `default`.
        namespace = news.name.namespace or "default"
        digest = hashlib.sha256(f"{news.uid}/{news.reason}/{news.message}".encode()).hexdigest()[:16]
        now = self._now()
        event: dict[str, Any] = {
            "apiVersion": "v1",
            "kind": "Event",
            # The same news has the same name: told again, it is refused as being there.
            "metadata": {"name": f"{news.name.name[:200]}.{digest}", "namespace": namespace},
            "involvedObject": {
                "apiVersion": news.api_version or built_in,
                "kind": news.kind,
                **({"namespace": news.name.namespace} if news.name.namespace else {}),
                "name": news.name.name,
                "uid": news.uid,
                "resourceVersion": news.resource_version,
            },
            "type": "Warning",
            "reason": news.reason,
            "message": news.message[:_MAX_NOTE],
            "source": {"component": MANAGER},
            "reportingComponent": MANAGER,
            "firstTimestamp": now,
            "lastTimestamp": now,
            "count": 1,
        }
        try:
            status = await self._api.send("POST", f"/api/v1/namespaces/{namespace}/events", event, "application/json")
        except SourceError as error:
            _log.warning("an event cannot be written now", extra={"why": error.failure.why})
            return Later(error.failure.retry_after)
        return "written" if status < 300 else "refused"


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
