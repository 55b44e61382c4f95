"""Mistakes to be planted in the product while a simulation runs, to see that the simulation notices each.

One is no mistake: a holder that never gives up its lease must do no harm, because leases only avoid duplicate work.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Generator, Iterable, Sequence
from typing import Any

import msgspec

from cli.arrival.tracker import Tracker
from services.compiler.core.compiler import Compiler
from services.compiler.log import event_fold
from services.ingestor.core import decide
from services.ingestor.core.log_diff import (
    AppliedChange,
    Change,
    Decision,
    DeletedChange,
    KnownObject,
    ListDifference,
    observe,
)
from services.ingestor.core.object_index import ObjectIndex
from services.ingestor.core.observations import Observation, Projected
from services.ingestor.core.standby_buffer import StandbyBuffer
from services.ingestor.log.chain_position import ChainPosition
from services.ingestor.log.compaction import Compactor
from services.xds_edge.snapshot import disk_cache
from services.xds_edge.snapshot import snapshot_follower as following
from services.xds_edge.snapshot.fleet import Fleet
from services.xds_edge.snapshot.snapshot_follower import SnapshotFollower
from services.xds_edge.xds.ads import AdsSession
from services.xds_edge.xds.delta import DeltaSubscription
from services.xds_edge.xds.resource_set import ResourceSet
from services.xds_edge.xds.subscription import Offer
from shared.eventlog.chain import ChainVerifier, checkpoint_at
from shared.eventlog.foreign import ForeignFilter
from shared.eventlog.protocol import ChainBrokenError, Checkpoint, Draft, Record
from shared.records import chunked_payload, events
from shared.records.events import DELETED, Event
from shared.records.proxy_status import ProxyStatus
from shared.records.snapshot import CDS, EDS, LDS, RDS, Commit
from shared.service.lease import Lease
from tests.simulation.network import LinkedLog
from tests.simulation.processes import STREAMS, CompilerProcess, EdgeProcess

Patch = tuple[Any, str, Any]
"""Whose attribute is replaced, its name, and by what."""


class Mistake(msgspec.Struct, frozen=True):
    """One mistake that a change of the product could introduce."""

    what: str
    patches: Callable[[], Sequence[Patch]]
    harmless: bool = False
    """Whether nothing may come of it."""


# Compilers

REVOKED = frozenset({"TrafficTarget", "HTTPRouteGroup"})
"""Kinds whose deletion takes rights away."""


class Forgetful(Compiler):
    """Skips the deletions of policy: what was granted once is granted for ever."""

    def fold(self, event: Event, sequence: int, *, epoch: str = "", traceparent: str = "") -> None:
        if event.kind in REVOKED and event.operation == DELETED:
            self.version, self.epoch = sequence, epoch or self.epoch
            return
        super().fold(event, sequence, epoch=epoch, traceparent=traceparent)


class Late(Compiler):
    """Takes a deletion of policy five events late: the right outlives it for a moment, and nothing shows later."""

    _held: tuple[Event, int] | None = None

    def fold(self, event: Event, sequence: int, *, epoch: str = "", traceparent: str = "") -> None:
        if self._held is not None and sequence >= self._held[1] + 5:
            late, self._held = self._held[0], None
            super().fold(late, sequence, epoch=epoch)
        if self._held is None and event.kind in REVOKED and event.operation == DELETED:
            self._held = event, sequence
            self.version, self.epoch = sequence, epoch or self.epoch
            return
        super().fold(event, sequence, epoch=epoch, traceparent=traceparent)


# Readers


class Trusting(ChainVerifier):
    """Takes any record for the next one."""

    def fold(self, record: Record) -> bool:
        try:
            return super().fold(record)
        except ChainBrokenError:
            self._checkpoint = checkpoint_at(record)
            return False


class Repeating(ChainVerifier):
    """Lets what was read already pass once more."""

    def fold(self, record: Record) -> bool:
        now = self.checkpoint
        if record.epoch == now.epoch and record.sequence <= now.sequence:
            return False
        return super().fold(record)


def _onto_anything(fleet: Fleet, commit: Commit) -> None:
    if commit.parent:
        commit = msgspec.structs.replace(commit, parent=fleet.snapshot.version or commit.parent)
    _APPLY(fleet, commit)


def _whatever_comes(follower: SnapshotFollower, commit: Commit) -> None:
    if commit.parent in {0, follower._fleet.version}:  # pyright: ignore[reportPrivateUsage]
        follower._fleet.apply(commit)  # pyright: ignore[reportPrivateUsage]
        follower.gap = False
        follower._applied(commit)  # pyright: ignore[reportPrivateUsage]


def _unmoved(edge: EdgeProcess) -> None:
    del edge


def _same_epoch_only(follower: SnapshotFollower, commit: Commit) -> None:
    held = follower._fleet.snapshot  # pyright: ignore[reportPrivateUsage]
    if not held.epoch or commit.epoch == held.epoch:
        _FOLD(follower, commit)


def _unchecked_blob(_assembler: chunked_payload.Assembler, _record: Record, payload: bytes) -> bytes:
    return payload


def _unchecked_file(content: bytes, where: str = "") -> disk_cache.LastGood | None:
    del where
    try:
        return msgspec.msgpack.decode(content[len(b"meshlog-edge-1\n") + 32 :], type=disk_cache.LastGood)
    except (msgspec.MsgspecError, ValueError):
        return None


def _one(_record: Record) -> int:
    return 1


# Edges


def _removals_first(session: AdsSession, now: float) -> list[Offer]:
    found: list[Offer] = []
    view = session.view
    if view is not None:
        for type_url in (EDS, RDS, CDS):
            part = view.of(type_url)
            subscription = session.subscriptions.get(type_url)
            if subscription is not None:
                kept = {name: held for name, held in subscription.held.resources.items() if name in part.resources}
                session._offer(type_url, found, ResourceSet(kept))  # pyright: ignore[reportPrivateUsage]
    return found or _OFFERS(session, now)


def _listeners_first(session: AdsSession, _now: float) -> list[Offer]:
    found: list[Offer] = []
    if session.view is not None:
        for type_url in (LDS, RDS, CDS, EDS):
            session._offer(type_url, found, session.view.of(type_url))  # pyright: ignore[reportPrivateUsage]
        session._update_complete()  # pyright: ignore[reportPrivateUsage]
    return found


def _half_a_view(fleet: Fleet, workload_class: str, held: Any, touched: Any) -> Any:
    view = _VIEW(fleet, workload_class, held, touched)
    if held is not None:
        view.selections = {**view.selections, RDS: held.of(RDS)}
    return view


async def _saved_ahead(edge: EdgeProcess) -> None:
    keyframe = edge.fleet.snapshot.keyframe()
    await asyncio.sleep(1.0)
    state = disk_cache.LastGood(format=disk_cache.FORMAT, checkpoint=edge.follower.checkpoint, keyframe=keyframe)
    await edge.disk.write(disk_cache.encode(state))


def _sent_is_held(session: AdsSession, _type_url: str) -> int:
    return session.version


def _sent_is_complete(session: AdsSession) -> None:
    session.complete = session.version


def _owes_nothing(subscription: DeltaSubscription, subscribed: Iterable[str], **more: Any) -> None:
    _SUBSCRIBE(subscription, subscribed, **more)
    subscription.owes = False


# Ingestors


def _without_deletions(objects: Any, listed: Any, **more: Any) -> ListDifference:
    found = _COMPARE(objects, listed, **more)
    return msgspec.structs.replace(found, changes=tuple(c for c in found.changes if not isinstance(c, DeletedChange)))


def _talkative(known: KnownObject | None, item: Projected, **more: Any) -> tuple[Decision, tuple[Change, ...]]:
    decision, changes = observe(known, item, **more)
    if decision is Decision.UNCHANGED and known is not None:
        return Decision.WRITTEN, (AppliedChange(item, known.sequence),)
    return decision, changes


def _keeps_nothing(_standby: StandbyBuffer, _fact: Observation) -> None:
    return


def _goes_on(standing: ChainPosition, why: str) -> None:
    standing.lost = why


def _remembers(_book: ObjectIndex) -> None:
    return


async def _stays(_standing: ChainPosition) -> None:
    return


async def _by_age(retention: Compactor, _standing: ChainPosition) -> None:
    cut = await retention._cut()  # pyright: ignore[reportPrivateUsage]
    if cut is not None:
        await retention._log.trim(before=cut, subjects=retention._scope)  # pyright: ignore[reportPrivateUsage]


# Readers of any stream


def _nothing_is(_filter: ForeignFilter, _record: Record) -> str:
    return ""


def _whatever_it_says(record: Record) -> Event:
    return events.decode(record.payload)


# Verbs


def _waits_for_known(tracker: Tracker, commit: Commit) -> None:
    _TAKE_COMMIT(tracker, commit)
    for version in tracker._versions.values():  # pyright: ignore[reportPrivateUsage]
        version.waiting.intersection_update(tracker.status)


def _present_is_enough(_tracker: Tracker, _number: int, version: Any, key: str, status: ProxyStatus) -> None:
    if status.connected:
        version.waiting.discard(key)


# Writers


def _unguarded(*streams: str) -> Patch:
    async def append(
        log: LinkedLog, drafts: Sequence[Draft], *, scope: str, after: Checkpoint, epoch: str = ""
    ) -> Checkpoint:
        if log.name not in streams:
            return await _APPEND(log, drafts, scope=scope, after=after, epoch=epoch)
        return await log.send(lambda: log.stream.append_anyway(drafts, scope=scope, after=after, epoch=epoch))

    return LinkedLog, "append", append


_HEADSTRONG: Patch = (
    Lease,
    "held",
    property(lambda lease: lease._has_led and not lease._ending),  # pyright: ignore[reportPrivateUsage]
)

_APPEND = LinkedLog.append
_APPLY = Fleet.apply
_FOLD = SnapshotFollower._fold  # pyright: ignore[reportPrivateUsage]
_VIEW: Any = Fleet._view  # pyright: ignore[reportPrivateUsage]
_OFFERS = AdsSession.offers
_COMPARE = decide.compare
_SUBSCRIBE = DeltaSubscription._subscribe  # pyright: ignore[reportPrivateUsage]
_TAKE_COMMIT = Tracker.take_commit

MISTAKES: dict[str, Mistake] = {
    "forgetful": Mistake(
        "the compiler skips the deletions of policy", lambda: [(CompilerProcess, "compiler", Forgetful)]
    ),
    "late": Mistake(
        "the compiler takes the deletions of policy five events late", lambda: [(CompilerProcess, "compiler", Late)]
    ),
    "trusting-compiler": Mistake(
        "the compiler does not verify the chain of events", lambda: [(event_fold, "ChainVerifier", Trusting)]
    ),
    "repeating-compiler": Mistake(
        "the compiler folds a second time what is delivered twice", lambda: [(event_fold, "ChainVerifier", Repeating)]
    ),
    "unguarded-compiler": Mistake(
        "the compiler appends without saying which commit it follows", lambda: [_unguarded(STREAMS.snapshots)]
    ),
    "half-an-epoch": Mistake(
        "the compiler compiles an epoch that is not complete", lambda: [(event_fold, "epoch_records", _one)]
    ),
    "unguarded-ingestor": Mistake(
        "the ingestor appends without saying which record it follows", lambda: [_unguarded(STREAMS.events)]
    ),
    "two-leaders": Mistake(
        "no replica gives up a lease that is lost, and appends say not what they follow",
        lambda: [_HEADSTRONG, _unguarded(STREAMS.events, STREAMS.snapshots)],
    ),
    "no-new-epoch": Mistake("a hole in the events is passed over", lambda: [(ChainPosition, "_break", _goes_on)]),
    "thin-epoch": Mistake("a new epoch says only what changed", lambda: [(ObjectIndex, "clear", _remembers)]),
    "reused-sequences": Mistake(
        "a new epoch begins at sequences that were read before", lambda: [(ChainPosition, "prepare_epoch", _stays)]
    ),
    "deaf-relist": Mistake(
        "the ingestor does not delete what a list no longer has", lambda: [(decide, "compare", _without_deletions)]
    ),
    "booked-before-written": Mistake(
        "facts whose append was refused count as written",
        lambda: [(ObjectIndex, "undo_round", ObjectIndex.commit_round)],
    ),
    "empty-standby": Mistake("a standby drops what it learns", lambda: [(StandbyBuffer, "keep", _keeps_nothing)]),
    "talkative": Mistake("the ingestor writes what did not change", lambda: [(decide, "observe", _talkative)]),
    "trim-by-age": Mistake("old events are forgotten, living or not", lambda: [(Compactor, "run", _by_age)]),
    "trusting-edge": Mistake(
        "an edge folds a commit onto whatever it holds",
        lambda: [(following, "ChainVerifier", Trusting), (Fleet, "apply", _onto_anything)],
    ),
    "lower-version": Mistake("an edge takes a lower version", lambda: [(SnapshotFollower, "_fold", _whatever_comes)]),
    "epoch-ignored": Mistake("an edge ignores a new epoch", lambda: [(SnapshotFollower, "_fold", _same_epoch_only)]),
    "never-behind": Mistake(
        "an edge that is cut off from the log serves any proxy that comes",
        lambda: [(EdgeProcess, "_log_lost", _unmoved)],
    ),
    "half-a-snapshot": Mistake("routes come one commit late", lambda: [(Fleet, "_view", _half_a_view)]),
    "removals-first": Mistake("an edge breaks before it makes", lambda: [(AdsSession, "offers", _removals_first)]),
    "listeners-first": Mistake(
        "an edge sends routes before the clusters that they name", lambda: [(AdsSession, "offers", _listeners_first)]
    ),
    "unchecked-blob": Mistake(
        "commits and keyframes are taken without their digest",
        lambda: [(chunked_payload.Assembler, "_checked", _unchecked_blob)],
    ),
    "unchecked-file": Mistake(
        "an edge takes its last good file without its digest", lambda: [(disk_cache, "decode", _unchecked_file)]
    ),
    "checkpoint-ahead": Mistake(
        "an edge saves where it stands later than what it holds", lambda: [(EdgeProcess, "_save", _saved_ahead)]
    ),
    "unscreened": Mistake(
        "whatever stands in the log is taken for the mesh's own", lambda: [(ForeignFilter, "_why_foreign", _nothing_is)]
    ),
    "believing": Mistake(
        "what a record says counts under whatever subject it stands", lambda: [(events, "read", _whatever_it_says)]
    ),
    "sent-is-held": Mistake(
        "an edge reports what it has sent before the proxy has acknowledged it",
        lambda: [(AdsSession, "acked", _sent_is_held), (AdsSession, "_update_complete", _sent_is_complete)],
    ),
    "asked-is-held": Mistake(
        "an edge reports a version while it owes the proxy what that made it ask for",
        lambda: [(DeltaSubscription, "_subscribe", _owes_nothing)],
    ),
    "silence-is-arrival": Mistake(
        "a verb waits for no proxy of which it has heard nothing", lambda: [(Tracker, "take_commit", _waits_for_known)]
    ),
    "present-is-arrival": Mistake(
        "a verb counts a proxy that is connected, whatever it acknowledged",
        lambda: [(Tracker, "_settle", _present_is_enough)],
    ),
    "headstrong": Mistake("no replica gives up a lease that is lost", lambda: [_HEADSTRONG], harmless=True),
}


@contextlib.contextmanager
def patched(patches: Sequence[Patch]) -> Generator[None]:
    """Replace attributes for as long as this lasts."""
    with contextlib.ExitStack() as stack:
        for owner, name, value in patches:
            stack.callback(setattr, owner, name, owner.__dict__[name])
            setattr(owner, name, value)
        yield


@contextlib.contextmanager
def planted(mistake: str) -> Generator[None]:
    """Run the product with a mistake; empty: as it is."""
    with patched(MISTAKES[mistake].patches() if mistake else ()):
        yield
