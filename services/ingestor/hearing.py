"""What a reporter hears from the log: commits, how far the compiler is, the proxies' statuses, and the pin."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable

import msgspec

from services.ingestor.facts import ObjectName
from services.ingestor.projection import digest_of
from services.ingestor.reach import Reach
from services.ingestor.reporter import Reporter
from services.ingestor.reports import Pinned
from shared import blob, events, pins
from shared.errors import MeshlogError
from shared.eventlog.protocol import ChainBrokenError, EventLog, LogUnavailableError, Record
from shared.lease import tenure_in
from shared.snapshot import Commit, SnapshotError, decode_commit
from shared.status import status_in
from shared.subjects import Streams

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
        self._outage = outage

    async def follow_commits(self, snapshots: EventLog, keyframes: EventLog) -> None:
        """Fold commits, from the newest keyframe on; what cannot be folded leads back to it."""
        while True:
            try:
                newest = await blob.newest(keyframes, self._streams.keyframe_subject)
                if newest is not None:
                    self._reach.take_commit(decode_commit(newest[1]))
                    self._reach.recall(await self._before(snapshots, self._reach.version))
                    self._reporter.stir()
                assembler = blob.Assembler()
                async for record in snapshots.follow(subjects=self._streams.snapshot_subject):
                    commit = _commit(assembler, record)
                    if commit is not None and commit.version > self._reach.version:
                        self._reach.take_commit(commit)
                        self._reporter.stir()
            except (SnapshotError, blob.BlobError, ChainBrokenError, LogUnavailableError) as error:
                _log.warning("commits cannot be followed for reports now: %s", error)
            await asyncio.sleep(self._outage)

    async def _before(self, snapshots: EventLog, version: int) -> list[Commit]:
        """The last commits up to a version, as far as they follow each other."""
        first, last = await snapshots.bounds()
        assembler, found = blob.Assembler(), list[Commit]()
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
        while True:
            try:
                for record in await statuses.last_per_subject(self._streams.all_status):
                    self._take_status(record)
                _, last = await statuses.bounds()
                async for record in statuses.follow(start=last + 1, subjects=self._streams.all_status):
                    self._take_status(record)
            except (ChainBrokenError, LogUnavailableError) as error:
                _log.warning("statuses cannot be followed for reports now: %s", error)
            await asyncio.sleep(self._outage)

    def _take_status(self, record: Record) -> None:
        status = status_in(record, self._streams)
        if status is not None:
            self._reach.take_status(status)
            self._reporter.stir()

    async def follow_progress(self, leases: EventLog) -> None:
        """Hear how far the compiler is: what changes nothing is in no commit."""

        def take(record: Record) -> None:
            tenure = tenure_in(record)
            if tenure is not None and tenure.ttl and self._reach.take_progress(tenure.reached):
                self._reporter.stir()

        await self._follow_newest(leases, self._streams.lease_subject("compiler"), take)

    async def follow_pin(self, log: EventLog, cluster: str) -> None:
        """Hear which policy is pinned."""
        subject = self._streams.event_subject(cluster, pins.PIN_KIND, "", pins.PIN_NAME)
        await self._follow_newest(log, subject, lambda record: self._reporter.pin(_pinned(record)))

    async def _follow_newest(self, log: EventLog, subject: str, take: Callable[[Record], None]) -> None:
        while True:
            try:
                newest = await log.last(subject)
                if newest is not None:
                    take(newest)
                async for record in log.follow(start=newest.sequence + 1 if newest else 1, subjects=subject):
                    take(record)
            except (ChainBrokenError, LogUnavailableError) as error:
                _log.warning("%s cannot be followed for reports now: %s", subject, error)
            await asyncio.sleep(self._outage)


def _commit(assembler: blob.Assembler, record: Record) -> Commit | None:
    try:
        payload = assembler.feed(record)
    except blob.BlobError as error:
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
