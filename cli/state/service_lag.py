"""The present lag of each service, as far as the log shows it.

The ingestor's lag behind Kubernetes is not in the log: its readiness reports it.
"""

from __future__ import annotations

import msgspec

from cli.arrival.tracker import Tracker
from cli.arrival.wait import changes_nothing
from cli.history.log_source import LogSource
from cli.history.object_states import newest_event
from shared.errors import MeshlogError
from shared.records import events
from shared.records.events import FutureEventError


class ServiceLag(msgspec.Struct, frozen=True):
    """One service, or one edge."""

    service: str
    behind: int
    """Number of events, proxies or requests that wait for it."""
    sentence: str


async def lags(source: LogSource, tracker: Tracker, cache: dict[int, bool] | None = None) -> list[ServiceLag]:
    """The compiler, each edge, the CA. `cache` holds which events change nothing, for callers that read repeatedly."""
    return [
        await _compiler(source, tracker.snapshot.version, {} if cache is None else cache),
        *_edges(tracker),
        *await _authority(source),
    ]


async def _compiler(source: LogSource, head: int, cache: dict[int, bool]) -> ServiceLag:
    newest = await newest_event(source)
    waiting = newest - head
    if waiting <= 0:
        return ServiceLag("compiler", 0, "compiled every event")
    if newest not in cache:
        cache.clear()
        if stops := await _stops_at(source, head):
            return ServiceLag("compiler", waiting, f"{stops}; version {head} is in force")
        try:
            cache[newest] = bool(head) and await changes_nothing(source)
        except FutureEventError as error:
            return ServiceLag("compiler", waiting, f"this command cannot say what waits: an event {error.what}")
    if cache[newest]:
        return ServiceLag("compiler", 0, f"compiled every event; the newest {waiting} change no configuration")
    return ServiceLag("compiler", waiting, f"{waiting} events after version {head} are not published")


async def _stops_at(source: LogSource, head: int) -> str:
    """Why a compiler of this command's build would stop; empty if it would not."""
    async for record in source.events.read(start=head + 1, subjects=source.scope):
        try:
            events.read(record)
        except FutureEventError as error:
            return error.state(record.sequence)
        except MeshlogError:
            continue
    return ""


def _edges(tracker: Tracker) -> list[ServiceLag]:
    version = tracker.snapshot.version
    waiting = set(tracker.rollout(after=0, until=version).waiting)
    served: dict[str, list[str]] = {}
    for key, status in tracker.status.items():
        if status.connected and key in tracker.snapshot.proxies:
            served.setdefault(status.edge, []).append(key)
    found: list[ServiceLag] = []
    for edge, proxies in sorted(served.items()):
        late = [key for key in proxies if key in waiting]
        oldest = min((tracker.status[key].acked for key in late), default=version)
        behind = f"{len(late)} behind, the last at version {oldest}" if late else "none behind"
        found.append(ServiceLag(edge, len(late), f"serves {len(proxies)} proxies, {behind}"))
    return found


async def _authority(source: LogSource) -> list[ServiceLag]:
    if source.requests is None:
        return []
    first, last = await source.requests.bounds()
    waiting = max(0, last - first + 1)
    return [
        ServiceLag("ca", waiting, f"up to {waiting} signing requests wait" if waiting else "no signing request waits")
    ]
