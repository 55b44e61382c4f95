"""What a reporter learns from the log: commits, how far the compiler is, the proxies' statuses, and the pin."""

from __future__ import annotations

import logging

import msgspec

from services.ingestor.core.observations import ObjectName
from services.ingestor.core.projection import digest_of
from services.ingestor.status.ack_progress import Reach
from services.ingestor.status.reporter import Reporter
from services.ingestor.status.reports import Pinned
from shared.errors import MeshlogError
from shared.eventlog.fold import Epoch, Fold, ViewRestartError
from shared.eventlog.protocol import EventLog, Record
from shared.eventlog.view import Begin, LogView
from shared.records import chunked_payload, events, pins
from shared.records.commits import CommitFold
from shared.records.proxy_status import status_in
from shared.records.snapshot import Commit, SnapshotError, decode_commit
from shared.records.subjects import Streams
from shared.service.lease import tenure_in
from shared.timing.backoff import Backoff

_log = logging.getLogger(__name__)

OUTAGE = 5.0
"""Seconds after a failure of the log."""
_RECALLED = 500
"""Records before the newest keyframe from which it is recalled what changed."""


class Hearing:
    """Feeds one reporter and its reach; each `follow_…` runs for ever."""

    def __init__(self, reach: Reach, reporter: Reporter, streams: Streams, *, outage: float = OUTAGE) -> None:
        self._reach = reach
        self._reporter = reporter
        self._streams = streams
        self._backoff = Backoff(outage, outage)

    async def follow_commits(self, snapshots: EventLog, keyframes: EventLog) -> None:
        """Fold commits, from the newest keyframe on; what cannot be folded leads back to it."""

        def take(commit: Commit) -> None:
            self._reach.take_commit(commit)
            self._reporter.stir()

        commits = CommitFold(take)

        async def seed() -> None:
            newest = await chunked_payload.newest(keyframes, self._streams.keyframe_subject)
            if newest is None:
                commits.begin()
                return
            try:
                self._reach.take_commit(decode_commit(newest[1]))
                self._reach.recall(await self._before(snapshots, self._reach.version))
            except SnapshotError as error:
                raise ViewRestartError("view/keyframe", error.sentence, about=error.about) from error
            commits.begin(self._reach.version)
            self._reporter.stir()

        await LogView(
            snapshots,
            commits,
            name="commits for reports",
            subjects=(self._streams.snapshot_subject,),
            streams=self._streams,
            begin=Begin.FIRST,
            seed=seed,
            backoff=self._backoff,
        ).run()

    async def _before(self, snapshots: EventLog, version: int) -> list[Commit]:
        """The last commits up to a version, as far as they follow each other."""
        first, last = await snapshots.bounds()
        assembler, found = chunked_payload.Assembler(), list[Commit]()
        async for record in snapshots.read(
            start=max(first, last - _RECALLED + 1), subjects=self._streams.snapshot_subject
        ):
            commit = _commit(assembler, record)
            if commit is None or commit.version > version:
                continue
            if found and commit.parent != found[-1].version:
                found.clear()
            found.append(commit)
        return found if found and found[-1].version == version else []

    async def follow_statuses(self, statuses: EventLog) -> None:
        """Fold the proxies' statuses."""
        await self._newest(statuses, self._streams.all_status, StatusFold(self._reach, self._reporter, self._streams))

    async def follow_progress(self, leases: EventLog) -> None:
        """Learn how far the compiler is: what changes nothing is in no commit."""
        await self._newest(leases, self._streams.lease_subject("compiler"), ProgressFold(self._reach, self._reporter))

    async def follow_pin(self, log: EventLog, cluster: str) -> None:
        """Learn which policy is pinned."""
        subject = self._streams.event_subject(cluster, pins.PIN_KIND, "", pins.PIN_NAME)
        await self._newest(log, subject, PinFold(self._reporter))

    async def _newest(self, log: EventLog, subjects: str, fold: Fold) -> None:
        await LogView(
            log,
            fold,
            name=f"{subjects} for reports",
            subjects=(subjects,),
            streams=self._streams,
            backoff=self._backoff,
        ).run()


class StatusFold:
    """The fold of the newest status of each proxy. Only connected proxies count against the limits of the view."""

    def __init__(self, reach: Reach, reporter: Reporter, streams: Streams) -> None:
        self._reach = reach
        self._reporter = reporter
        self._streams = streams

    def reset(self, _epoch: Epoch) -> None:
        """Do nothing: statuses are not chained."""

    def fold(self, record: Record) -> bool:
        """Take a status; one that cannot be read is passed over."""
        status = status_in(record, self._streams)
        if status is None:
            return False
        self._reach.take_status(status)
        self._reporter.stir()
        return status.connected


class ProgressFold:
    """The fold of the compiler's lease, which names the newest event that is compiled."""

    def __init__(self, reach: Reach, reporter: Reporter) -> None:
        self._reach = reach
        self._reporter = reporter

    def reset(self, _epoch: Epoch) -> None:
        """Keep what is known: the next record replaces it."""

    def fold(self, record: Record) -> bool:
        """Take a renewal; one that names no holder, or cannot be read, is passed over."""
        tenure = tenure_in(record)
        if tenure is not None and tenure.ttl and self._reach.take_progress(tenure.reached):
            self._reporter.stir()
        return True


class PinFold:
    """The fold of the pin of one cluster."""

    def __init__(self, reporter: Reporter) -> None:
        self._reporter = reporter

    def reset(self, _epoch: Epoch) -> None:
        """Nothing is pinned until an event of the epoch pins it."""
        self._reporter.pin(None)

    def fold(self, record: Record) -> bool:
        """Take an event of the pin."""
        self._reporter.pin(_pinned(record))
        return True


def _commit(assembler: chunked_payload.Assembler, record: Record) -> Commit | None:
    try:
        payload = assembler.feed(record)
    except chunked_payload.BlobError as error:
        # It stays so however often it is read; whether it is missed shows with the next commit.
        _log.warning("a commit is passed over for reports: %s", error)
        return None
    return decode_commit(payload) if payload is not None else None


def _pinned(record: Record) -> Pinned | None:
    """What a pin keeps in force; none: it keeps nothing, or cannot be read, and the compiler says so."""
    try:
        event = events.read(record)
        found = pins.in_force_by(event)
        if found is None or event.object is None:
            return None
        version = msgspec.json.decode(event.object, type=pins.Pin).version
    except MeshlogError:
        return None
    forms = {
        (one.kind, ObjectName(namespace=one.namespace, name=one.name)): (
            one.uid,
            digest_of(one.api_version, bytes(one.object or b""), one.withheld, one.why),
        )
        for _, one in found
    }
    return Pinned(version=version, forms=forms)
