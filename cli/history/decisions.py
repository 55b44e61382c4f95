"""May this call pass, at any time in history; and when it was last otherwise, by which event."""

from __future__ import annotations

import msgspec

from cli.calls.asking import Answer, ask
from cli.calls.directory import Directory
from cli.calls.matching import Request
from cli.history.states import LostHistoryError, complete_from
from cli.history.timeline import Happened, Timeline, living
from shared.errors import BadInputError
from shared.events import APPLIED, Event, ObjectKey
from shared.snapshot import Commit, Snapshot


class Call(msgspec.Struct, frozen=True):
    """The call that is asked about; names as in `meshlog check`."""

    caller: str
    called: str
    request: Request
    port: int | None = None


class Otherwise(msgspec.Struct, frozen=True):
    """The commit before which the decision was another."""

    version: int
    before: bool
    """Whether the call was allowed before."""
    events: list[Happened]
    """What was in that version."""


async def decide(timeline: Timeline, snapshot: Snapshot, call: Call) -> list[Answer]:
    """The decision by the configuration that was published; raises `BadInputError` for names that are not there."""
    about = timeline.source.about
    state = living(await timeline.state(snapshot.version))
    directory = Directory((item.event for item in state.values()), cluster=about.cluster)
    return ask(snapshot, directory, call.caller, call.called, call.request, port=call.port)


async def last_otherwise(timeline: Timeline, version: int, call: Call) -> Otherwise | None:
    """When the decision was last another than at `version`; none if it never was, in what the log keeps.

    The published versions are gone through once, forwards, and the newest turn is remembered. Where one of the two ends
    does not exist there is no decision, and no turn; nor where the log has forgotten who was there.
    """
    about = timeline.source.about
    known = await complete_from(timeline.source)
    state: dict[ObjectKey, Event] = {}
    history = timeline.history(until=version)
    item = await anext(history, None)
    snapshot, previous = Snapshot(), 0
    last: bool | None = None
    turn: tuple[int, int, bool] | None = None
    async for found in timeline.commits(until=version):
        commit = found.commit
        if not await _advance(timeline, snapshot, commit):
            continue
        while item is not None and item.sequence <= commit.version:
            state[item.event.key] = item.event
            item = await anext(history, None)
        if commit.version < known:
            continue
        there = (event for event in state.values() if event.operation == APPLIED)
        try:
            answers = ask(
                snapshot,
                Directory(there, cluster=about.cluster),
                call.caller,
                call.called,
                call.request,
                port=call.port,
            )
        except BadInputError:
            previous = commit.version
            continue
        now = all(answer.allowed for answer in answers)
        if last is not None and now != last:
            turn = (commit.version, previous, last)
        last, previous = now, commit.version
    if turn is None:
        return None
    at, since, before = turn
    return Otherwise(at, before, [one async for one in timeline.history(after=since, until=at)])


async def _advance(timeline: Timeline, snapshot: Snapshot, commit: Commit) -> bool:
    """Fold the next commit in; false if the log has forgotten what it stands on."""
    if commit.parent in {0, snapshot.version}:
        snapshot.apply(commit)
        return True
    try:
        snapshot.apply((await timeline.snapshot(commit.version)).keyframe())
    except LostHistoryError:
        return False
    return True
