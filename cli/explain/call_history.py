"""Decides whether a call passes at a version, and finds the event that last changed this decision."""

from __future__ import annotations

from collections.abc import Mapping

import msgspec

from cli.calls.directory import Directory
from cli.calls.matching import HttpRequest
from cli.calls.near_misses import policy_of
from cli.calls.question import CallAnswer, ask, explained
from cli.history import recompile
from cli.history.object_states import LostHistoryError, ObjectSelection, complete_from
from cli.history.timeline import LoggedEvent, Timeline, living
from shared.errors import BadInputError
from shared.records.events import APPLIED, Event, ObjectKey
from shared.records.snapshot import Commit, Snapshot

_MOST_COMPILED = 200
"""Limit of the events of one version that are compiled one by one to find the one that decided."""


class CallQuery(msgspec.Struct, frozen=True):
    """The call in question; names as in `meshlog check`."""

    caller: str
    called: str
    request: HttpRequest
    port: int | None = None


class DecisionChange(msgspec.Struct, frozen=True):
    """The commit that changed the decision."""

    version: int
    before: bool
    """Whether the call was allowed before."""
    events: list[LoggedEvent]
    """The events of that version."""
    decisive: LoggedEvent | None = None
    """The one event of these that changed the decision; None if it was not searched for, or no single event did."""


async def decide(timeline: Timeline, snapshot: Snapshot, call: CallQuery) -> list[CallAnswer]:
    """Decide by the published configuration. Raises `BadInputError` for names that do not exist in it."""
    about = timeline.source.about
    state = living(await timeline.state(snapshot.version))
    events = [item.event for item in state.values()]
    answers = ask(
        snapshot, Directory(events, cluster=about.cluster), call.caller, call.called, call.request, port=call.port
    )
    return explained(
        answers, call.request, lambda namespaces: policy_of(events, recompile.settings_of(about), namespaces)
    )


async def last_otherwise(timeline: Timeline, version: int, call: CallQuery) -> DecisionChange | None:
    """Return the last change of the decision up to `version`, or None if the log keeps no change.

    Reads the published versions once, forwards, and keeps the newest change. There is no decision, and no change, at
    versions where one of the two ends does not exist, or whose pods the log has trimmed.
    """
    about = timeline.source.about
    known = await complete_from(timeline.source)
    namespaces = {text.rpartition(":")[2].partition("/")[0] for text in (call.caller, call.called)}
    objects = _ObjectsPresent(timeline, namespaces, until=version)
    snapshot, previous = Snapshot(), 0
    last: bool | None = None
    change: tuple[int, int, bool] | None = None
    async for found in timeline.commits(until=version):
        commit = found.commit
        before, since = snapshot.version, previous
        if not await _advance(timeline, snapshot, commit):
            continue
        previous = commit.version
        objects_changed = await objects.advance(commit.version)
        if commit.version < known or not (
            objects_changed or commit.parent != before or _may_matter(commit, namespaces)
        ):
            continue
        directory = Directory(objects.events.values(), cluster=about.cluster)
        try:
            answers = ask(snapshot, directory, call.caller, call.called, call.request, port=call.port)
        except BadInputError:
            continue
        now = all(answer.allowed for answer in answers)
        if last is not None and now != last:
            change = (commit.version, since, last)
        last = now
    if change is None:
        return None
    at, since, allowed_before = change
    events = [one async for one in timeline.history(after=since, until=at)]
    decisive = events[0] if len(events) == 1 else await _decisive(timeline, call, since, events)
    return DecisionChange(at, allowed_before, events, decisive)


async def _decisive(timeline: Timeline, call: CallQuery, since: int, events: list[LoggedEvent]) -> LoggedEvent | None:
    """Return the event that last changed the decision: compiles after each one, from the version before."""
    if len(events) > _MOST_COMPILED:
        return None
    about = timeline.source.about
    namespaces = {text.rpartition(":")[2].partition("/")[0] for text in (call.caller, call.called)}
    try:
        objects = {item.event.key: item for item in living(await timeline.state(since)).values()}
    except LostHistoryError:
        return None
    compiler = recompile.compiler_of(about, objects.values(), serves=lambda pod: pod.namespace in namespaces)
    snapshot = recompile.compiled(compiler)
    decisive: LoggedEvent | None = None
    last = _allowed(snapshot, objects, call, about.cluster)
    for item in events:
        compiler.fold(item.event, item.sequence, epoch="history")
        snapshot = recompile.compiled(compiler, snapshot)
        if item.event.operation == APPLIED:
            objects[item.event.key] = item
        else:
            objects.pop(item.event.key, None)
        now = _allowed(snapshot, objects, call, about.cluster)
        if now is not None and now != last:
            decisive, last = item, now
    return decisive


def _allowed(
    snapshot: Snapshot, objects: Mapping[ObjectKey, LoggedEvent], call: CallQuery, cluster: str
) -> bool | None:
    """Whether the call is allowed; None if one of its ends does not exist."""
    directory = Directory((item.event for item in objects.values()), cluster=cluster)
    try:
        answers = ask(snapshot, directory, call.caller, call.called, call.request, port=call.port)
    except BadInputError:
        return None
    return all(answer.allowed for answer in answers)


def _may_matter(commit: Commit, namespaces: set[str]) -> bool:
    """Whether a commit changes the configuration of the sidecars of some namespaces; permissive classes are of any."""
    homes = {name.partition("/")[0] for name in commit.views} | {key.split("/")[1] for key in commit.proxies}
    return bool(homes & namespaces) or any("/" not in name for name in commit.views)


class _ObjectsPresent:
    """The pods and services of some namespaces at a version that advances."""

    def __init__(self, timeline: Timeline, namespaces: set[str], *, until: int) -> None:
        self.events: dict[ObjectKey, Event] = {}
        holds = ObjectSelection(frozenset(namespaces)).holds(timeline.source)
        self._history = (item async for item in timeline.history(until=until, holds=holds))
        self._next: LoggedEvent | None = None
        self._begun = False

    async def advance(self, version: int) -> bool:
        """Apply the events up to a version. Returns whether one was of a pod, a service or its endpoints."""
        objects_changed = False
        if not self._begun:
            self._next, self._begun = await anext(self._history, None), True
        while self._next is not None and self._next.sequence <= version:
            event = self._next.event
            if event.kind in {"Pod", "Service", "EndpointSlice"}:
                objects_changed = True
                if event.operation == APPLIED:
                    self.events[event.key] = event
                else:
                    self.events.pop(event.key, None)
            self._next = await anext(self._history, None)
        return objects_changed


async def _advance(timeline: Timeline, snapshot: Snapshot, commit: Commit) -> bool:
    """Apply the next commit. Returns False if the log has trimmed its parent."""
    if commit.parent in {0, snapshot.version}:
        snapshot.apply(commit)
        return True
    try:
        snapshot.apply((await timeline.snapshot(commit.version)).keyframe())
    except LostHistoryError:
        return False
    return True
