"""A materialised view: what the records of some subjects of one stream mean now, kept current.

A service defines the meaning with a `Fold` (`shared.eventlog.fold`), which is pure: no I/O, clock or task. A `LogView`
feeds it. It reads the newest record of each subject, then follows the stream; it waits for a log that is away, reads
again with a back-off after a failure, bounds what it takes in, and applies the one rule for epochs below. A view does
not verify the chain: a reader that needs every record of a chain uses `shared.eventlog.chain.ChainVerifier`.

**The rule for epochs.** The log orders records by sequence, and a chain is in one epoch: that of its newest record.

1. A *reading* (at the start, and after each failure) asks for the tip of each chain. `Fold.reset` is called with the
   tip's epoch, then its records are folded. Records of other epochs are not: an object that vanished while the log was
   broken has its last record in an epoch that ended.
2. While *following*, a record of another epoch that is later in the log than every known record of the epoch in force
   begins its epoch: `Fold.reset` is called, then the record is folded.
3. A record of an epoch that ended is not folded. Such records arrive, because several subjects are followed
   independently of each other.
4. Any other record of another epoch, and a sequence that goes back, mean that the stream is not the one that was read
   (made anew, rolled back): the view reads again, and rule 1 decides.

A record without a chain has no epoch: only the next record of its subject replaces it. A view of a part of a chain
notices a new epoch with the first record of it on one of its own subjects.
"""

from __future__ import annotations

import asyncio
import contextlib
import enum
import logging
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from typing import Protocol

import msgspec

from shared.eventlog.fold import UNREADABLE, Epoch, Fold, ViewRestartError
from shared.eventlog.protocol import ChainBrokenError, EventLog, EventLogError, LogUnavailableError, Record
from shared.timing.backoff import Backoff

_log = logging.getLogger(__name__)

_ENDED_EPOCHS = 64
"""Epochs of a chain that are remembered as ended; a log has one or two in its life."""


class Begin(enum.Enum):
    """Where a reading begins."""

    NEWEST = "newest"
    """With the newest record of each subject: the view is a map of objects."""
    FIRST = "first"
    """With the first record that the stream keeps: the view is a sum of changes. One chain only."""
    NEXT = "next"
    """After the last record of the stream: the view is a dialogue, and what was before does not concern it."""


class ViewLimits(msgspec.Struct, frozen=True):
    """How much a view takes in. Beyond it, records of further subjects are skipped and counted in `LogView.left_out`.

    A record of a subject that is held is always folded: a deletion must not be lost.
    """

    subjects: int = 1_000_000
    """Subjects of which something is held."""
    bytes: int = 1 << 30
    """Bytes of the payloads of their newest records, together."""


class ChainScopes(Protocol):
    """Which hash chain a subject belongs to; `shared.records.subjects.Streams`."""

    def chain_scope(self, subject: str) -> str:
        """Return the scope of the chain of a record with this subject."""
        ...


class _Start(msgspec.Struct, frozen=True):
    """Where following begins."""

    subjects: str
    sequence: int
    read: Record | None = None
    """The record at that sequence, if it was folded by the reading."""


class _ChainEpoch:
    """Which epoch of a chain is in force, as far as records were seen."""

    def __init__(self, epoch: str, newest: int, *, until: int = 0) -> None:
        self.epoch = epoch
        self.newest = newest
        """Sequence of the newest known record of the epoch in force."""
        self.until = until
        """Up to this sequence, records of other epochs ended before the reading began."""
        self.ended: dict[str, None] = {}

    def end(self, epoch: str) -> None:
        """Remember that an epoch ended."""
        self.ended[epoch] = None
        if len(self.ended) > _ENDED_EPOCHS:
            del self.ended[next(iter(self.ended))]


class LogView:
    """Keeps a fold current; `run` it as a task."""

    def __init__(
        self,
        log: EventLog,
        fold: Fold,
        *,
        name: str,
        subjects: Sequence[str],
        streams: ChainScopes,
        begin: Begin = Begin.NEWEST,
        seed: Callable[[], Awaitable[None]] | None = None,
        backoff: Backoff = Backoff(first=0.3, longest=1.0),  # noqa: B008 (immutable)
        limits: ViewLimits = ViewLimits(),  # noqa: B008 (immutable)
        settle: float = 0.0,
    ) -> None:
        """`name` stands in log lines ("token issuers"); no two `subjects` overlap.

        `seed` is awaited in each reading from `Begin.FIRST`, after `Fold.reset` and before the first record: it gives
        the fold what the records continue, a keyframe for instance. It may raise `EventLogError`.

        `settle` is the number of seconds for which changes are collected before `changed` is notified once.
        """
        self._log = log
        self._fold = fold
        self._name = name
        self._subjects = tuple(subjects)
        self._streams = streams
        self._begin = begin
        self._seed = seed
        self._backoff = backoff
        self._limits = limits
        self._settle = settle
        self._chains: dict[str, _ChainEpoch] = {}
        self._held: dict[str, int] = {}
        """Bytes of the newest record by subject."""
        self._bytes = 0
        self._full = False
        self._goal = 0
        """Sequence up to which records were there when the reading began, with `Begin.FIRST`."""
        self._change = asyncio.Event()
        self._settling: asyncio.TimerHandle | None = None
        self.caught_up = asyncio.Event()
        """Set once everything that was in the log at the start is folded; it stays set."""
        self.left_out = 0
        """Records skipped because of `ViewLimits`, since the start."""
        self.skipped = 0
        """Records skipped because they cannot be read, since the start."""
        self.readings = 0
        """Readings that were completed; more than 1 after failures."""

    # Changes

    async def changed(self) -> None:
        """Wait for the next change."""
        await self._change.wait()

    def next_change(self) -> asyncio.Event:
        """An event that is set at the next change; take it before looking at the fold."""
        return self._change

    async def changes(self) -> AsyncIterator[None]:
        """Yield now and after each change, for ever; several changes may be one."""
        while True:
            change = self._change
            yield
            await change.wait()

    # Reading and following

    async def run(self) -> None:
        """Keep the fold current for ever. While the log is away, what was folded stays in force."""
        delays = self._backoff.delays()
        while True:
            try:
                starts = await self._read()
                delays.reset()
                await self._follow(starts)
            except EventLogError as error:
                # During an outage only the first attempt is worth a line for the operator.
                level = logging.DEBUG if delays.failures else logging.WARNING
                _log.log(level, "%s cannot be followed now: %s", self._name, error)
            await asyncio.sleep(delays.next())

    async def _read(self) -> list[_Start]:
        """Fold what is there; where to follow each subject from."""
        if self._begin is Begin.NEWEST:
            starts = await self._read_newest()
        elif self._begin is Begin.FIRST:
            starts = await self._read_first()
        else:
            _, last = await self._log.bounds()
            starts = [_Start(subjects, last + 1) for subjects in self._subjects]
            self.caught_up.set()
        self.readings += 1
        return starts

    async def _read_newest(self) -> list[_Start]:
        found = [await self._log.last_per_subject(subjects) for subjects in self._subjects]
        chains = await self._chains_of([record for records in found for record in records])
        # Nothing below waits: the fold is seen as it was before the reading, or as it is after it.
        self._begin_reading(chains)
        for records in found:
            for record in records:
                self._take(record)
        self._notify()
        self.caught_up.set()
        return [
            _Start(subjects, records[-1].sequence, records[-1]) if records else _Start(subjects, 1)
            for subjects, records in zip(self._subjects, found, strict=True)
        ]

    async def _read_first(self) -> list[_Start]:
        (subjects,) = self._subjects
        tip = await self._log.tip(subjects)
        self._goal = tip.sequence
        self._begin_reading({subjects: _ChainEpoch(tip.epoch, tip.sequence, until=tip.sequence)} if tip.epoch else {})
        if self._seed is not None:
            await self._seed()
            self._notify()
        self._check_caught_up(0)
        return [_Start(subjects, 1)]

    def _check_caught_up(self, sequence: int) -> None:
        if sequence >= self._goal:
            self.caught_up.set()

    async def _chains_of(self, records: Sequence[Record]) -> dict[str, _ChainEpoch]:
        """The chains that these records belong to, each with the epoch of its tip."""
        chains: dict[str, _ChainEpoch] = {}
        for record in records:
            scope = self._streams.chain_scope(record.subject)
            if not record.epoch:
                continue
            if scope not in chains:
                # The tip is looked up after the records: an epoch that began in between is the one in force.
                epoch, newest = record.epoch, record.sequence
                if scope != record.subject:
                    tip = await self._log.tip(scope)
                    epoch, newest = tip.epoch, tip.sequence
                chains[scope] = _ChainEpoch(epoch, newest)
            if record.epoch != chains[scope].epoch:
                chains[scope].end(record.epoch)
        return chains

    def _begin_reading(self, chains: dict[str, _ChainEpoch]) -> None:
        self._held.clear()
        self._bytes = 0
        before, self._chains = self._chains, chains
        for scope in dict.fromkeys((*before, *chains)):
            self._fold.reset(Epoch(scope, chains[scope].epoch if scope in chains else ""))

    async def _follow(self, starts: Sequence[_Start]) -> None:
        """Follow every subject until one of them fails."""
        tasks = [asyncio.create_task(self._follow_one(start)) for start in starts]
        try:
            await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
            for task in tasks:
                if task.done():
                    task.result()
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
        raise LogUnavailableError("log/closed", "the log was closed", about=self._name)

    async def _follow_one(self, start: _Start) -> None:
        # Following begins with the record that was read last: a log that has another one there was rolled back.
        last = start.read
        sequence = last.sequence if last is not None else 0
        followed = self._log.follow(start=start.sequence, subjects=start.subjects)
        async with contextlib.aclosing(followed) as records:
            async for record in records:
                if last is not None and record.sequence == last.sequence:
                    if not _is_same(last, record):
                        raise ChainBrokenError("log/rewritten", f"record {last.sequence} is not the one that was read")
                    last = None
                    continue
                last = None
                if record.epoch and record.sequence <= sequence:
                    raise ChainBrokenError("log/rolled-back", f"record {record.sequence} comes after {sequence}")
                sequence = record.sequence
                self._take(record)
                self._notify()
                self._check_caught_up(sequence)

    # Folding

    def _take(self, record: Record) -> None:
        """Fold a record if its epoch is in force and the limits allow it."""
        if record.epoch and not self._is_in_force(record):
            return
        if not self._has_room(record):
            self.left_out += 1
            return
        try:
            held = self._fold.fold(record)
        except ViewRestartError:
            raise
        except UNREADABLE as error:
            self.skipped += 1
            _log.error("%s: record %d is skipped: %s", self._name, record.sequence, error)
            return
        self._count(record.subject, len(record.payload) if held else None)

    def _is_in_force(self, record: Record) -> bool:
        """Apply the rule for epochs to a record of a chain; whether it is to be folded."""
        scope = self._streams.chain_scope(record.subject)
        chain = self._chains.get(scope)
        if chain is not None and record.epoch == chain.epoch:
            chain.newest = max(chain.newest, record.sequence)
            return True
        if chain is not None and (record.epoch in chain.ended or record.sequence <= chain.until):
            chain.end(record.epoch)
            return False
        if chain is not None and record.sequence <= chain.newest:
            raise ViewRestartError(
                "log/rolled-back",
                f"record {record.sequence} is of epoch {record.epoch}, {chain.newest} is of {chain.epoch}",
                about=scope,
            )
        began = _ChainEpoch(record.epoch, record.sequence)
        if chain is not None:
            _log.warning("%s: epoch %s begins at record %d of %s", self._name, record.epoch, record.sequence, scope)
            began.ended = chain.ended
            began.end(chain.epoch)
        self._chains[scope] = began
        self._reset(Epoch(scope, record.epoch))
        return True

    def _reset(self, epoch: Epoch) -> None:
        covers = epoch.chain[:-1] if epoch.chain.endswith(".>") else ""
        for subject in [one for one in self._held if one == epoch.chain or (covers and one.startswith(covers))]:
            self._count(subject, None)
        self._fold.reset(epoch)

    def _has_room(self, record: Record) -> bool:
        limits = self._limits
        if record.subject in self._held:
            return True
        fits = len(self._held) < limits.subjects and self._bytes + len(record.payload) <= limits.bytes
        if not fits and not self._full:
            _log.error(
                "%s: %d subjects of %d bytes are the most that is held; record %d and other new ones are left out",
                self._name,
                len(self._held),
                self._bytes,
                record.sequence,
                extra={"code": "view/full"},
            )
        self._full = not fits
        return fits

    def _count(self, subject: str, size: int | None) -> None:
        """Count what is held of a subject: so many bytes, or nothing."""
        self._bytes -= self._held.pop(subject, 0)
        if size is not None:
            self._held[subject] = size
            self._bytes += size

    def _notify(self) -> None:
        if not self._settle:
            self._wake()
        elif self._settling is None:
            self._settling = asyncio.get_running_loop().call_later(self._settle, self._wake)

    def _wake(self) -> None:
        self._settling = None
        change, self._change = self._change, asyncio.Event()
        change.set()


def _is_same(one: Record, other: Record) -> bool:
    return (one.subject, one.payload, one.headers) == (other.subject, other.payload, other.headers)
