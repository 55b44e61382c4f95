"""Follows the log for the reports: commits, the compiler's progress, the proxies' statuses, and the pin."""

from __future__ import annotations

import logging

import msgspec

from services.ingestor.core.observations import NamespacedName
from services.ingestor.core.projection import digest_of
from services.ingestor.status.ack_progress import AckProgress
from services.ingestor.status.condition_reporter import ConditionReporter
from services.ingestor.status.reports import PinnedForms
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
"""Seconds until the next attempt after a failure of the log."""
_RECALLED = 500
"""Records before the newest keyframe that are read for the versions of earlier changes."""


class StatusLogFollower:
    """Updates one reporter and its `AckProgress`; each `follow_…` runs for ever."""

    def __init__(
        self, progress: AckProgress, reporter: ConditionReporter, streams: Streams, *, outage: float = OUTAGE
    ) -> None:
        self._progress = progress
        self._reporter = reporter
        self._streams = streams
        self._backoff = Backoff(outage, outage)

    async def follow_commits(self, snapshots: EventLog, keyframes: EventLog) -> None:
        """Fold commits from the newest keyframe on; starts again from it if a commit cannot be folded."""

        def take(commit: Commit) -> None:
            self._progress.take_commit(commit)
            self._reporter.progress_changed()

        commits = CommitFold(take)

        async def seed() -> None:
            newest = await chunked_payload.newest(keyframes, self._streams.keyframe_subject)
            if newest is None:
                commits.begin()
                return
            try:
                self._progress.take_commit(decode_commit(newest[1]))
                self._progress.recall(await self._before(snapshots, self._progress.version))
            except SnapshotError as error:
                raise ViewRestartError("view/keyframe", error.sentence, about=error.about) from error
            commits.begin(self._progress.version)
            self._reporter.progress_changed()

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
        """Returns the last consecutive commits up to a version, oldest first."""
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
        await self._newest(
            statuses, self._streams.all_status, ProxyStatusFold(self._progress, self._reporter, self._streams)
        )

    async def follow_progress(self, leases: EventLog) -> None:
        """Follow the compiler's progress: events that change nothing are in no commit."""
        await self._newest(
            leases, self._streams.lease_subject("compiler"), CompilerProgressFold(self._progress, self._reporter)
        )

    async def follow_pin(self, log: EventLog, cluster: str) -> None:
        """Follow the pin of a cluster."""
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


class ProxyStatusFold:
    """Folds the newest status of each proxy. Only connected proxies count against the limits of the view."""

    def __init__(self, progress: AckProgress, reporter: ConditionReporter, streams: Streams) -> None:
        self._progress = progress
        self._reporter = reporter
        self._streams = streams

    def reset(self, _epoch: Epoch) -> None:
        """Do nothing: statuses are not chained."""

    def fold(self, record: Record) -> bool:
        """Take a status; an undecodable one is skipped."""
        status = status_in(record, self._streams)
        if status is None:
            return False
        self._progress.take_status(status)
        self._reporter.progress_changed()
        return status.connected


class CompilerProgressFold:
    """Folds the compiler's lease, which names the newest compiled event."""

    def __init__(self, progress: AckProgress, reporter: ConditionReporter) -> None:
        self._progress = progress
        self._reporter = reporter

    def reset(self, _epoch: Epoch) -> None:
        """Keep the progress: the next record replaces it."""

    def fold(self, record: Record) -> bool:
        """Take a renewal; one without a holder, or undecodable, is skipped."""
        tenure = tenure_in(record)
        if tenure is not None and tenure.ttl and self._progress.take_progress(tenure.reached):
            self._reporter.progress_changed()
        return True


class PinFold:
    """Folds the pin of one cluster."""

    def __init__(self, reporter: ConditionReporter) -> None:
        self._reporter = reporter

    def reset(self, _epoch: Epoch) -> None:
        """Remove the pin: only an event of the new epoch can pin."""
        self._reporter.pin(None)

    def fold(self, record: Record) -> bool:
        """Take an event of the pin."""
        self._reporter.pin(_pinned(record))
        return True


def _commit(assembler: chunked_payload.Assembler, record: Record) -> Commit | None:
    try:
        payload = assembler.feed(record)
    except chunked_payload.BlobError as error:
        # Reading it again would not help; the next commit shows whether it was needed.
        _log.warning("a commit is passed over for reports: %s", error)
        return None
    return decode_commit(payload) if payload is not None else None


def _pinned(record: Record) -> PinnedForms | None:
    """Returns the forms that a pin keeps in force, or None if there are none or the pin is undecodable.

    The compiler reports an undecodable pin.
    """
    try:
        event = events.read(record)
        found = pins.in_force_by(event)
        if found is None or event.object is None:
            return None
        version = msgspec.json.decode(event.object, type=pins.Pin).version
    except MeshlogError:
        return None
    forms = {
        (one.kind, NamespacedName(namespace=one.namespace, name=one.name)): (
            one.uid,
            digest_of(one.api_version, bytes(one.object or b""), one.withheld, one.why),
        )
        for _, one in found
    }
    return PinnedForms(version=version, forms=forms)
