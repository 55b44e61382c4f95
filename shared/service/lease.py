"""Leader election of replicas: a lease, held by renewing one record of the log.

A lease avoids duplicate work; correctness does not depend on it. Writes are guarded by expected sequences, so the log
refuses a leader that was paused, cut off or replaced, whatever it believes.

The record names its holder, and every renewal replaces it under the expected sequence of the one before, so two
replicas never hold the lease by the same record. No clocks are compared: a standby measures, by its own monotonic
clock, how long the record has not been renewed, and a holder stops leading `ttl` after it *sent* its last renewal,
which is earlier than any standby can begin to campaign. A holder that stops gives the lease back, and the next replica
gets it within the time of two messages. A process that comes back in the place of a killed one (the same
instance: the same pod) takes up its predecessor's lease without waiting for it to run out.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
from collections.abc import Callable

import msgspec

from shared.eventlog.chain import checkpoint_at
from shared.eventlog.protocol import (
    EMPTY,
    GENESIS,
    HEADER_CHAIN,
    HEADER_EPOCH,
    Draft,
    DuplicateError,
    EventLog,
    EventLogError,
    LogUnavailableError,
    Record,
    StaleWriterError,
)
from shared.io.decoding import UndecodableError, decode
from shared.service.background_task import background_task

_log = logging.getLogger(__name__)

TTL = 1.5
"""Seconds after which a lease that is not renewed may be taken by another."""
_RENEWALS = 2.5
"""Renewals in the time of one lease: one may be lost."""
_AGAIN = 0.2
"""Seconds between attempts while the log refuses or is away."""


class Tenure(msgspec.Struct, frozen=True, omit_defaults=True):
    """The record of a lease."""

    instance: str
    """Pod or process that holds it, for people and for its own successor."""
    incarnation: str
    """Random, of this very process."""
    ttl: float
    """Seconds from a renewal to the end; 0: given back."""
    trouble: str = ""
    """What keeps the holder from its work, for people; empty: nothing."""
    reached: int = 0
    """The event up to which the holder has finished its work, as of this renewal; 0: unknown."""


def _ignore_change() -> None:
    return


def _no_trouble() -> str:
    return ""


_LONGEST_TROUBLE = 1000
"""Characters."""


def _unknown_progress() -> int:
    return 0


def tenure_in(record: Record) -> Tenure | None:
    """Return the content of a record of a lease; None if it cannot be decoded."""
    try:
        return decode(Tenure, record.payload)
    except UndecodableError:
        return None


class Lease:
    """One replica's claim to one lease. `run` it in the background of the work; ask `held` before leading."""

    def __init__(
        self,
        log: EventLog,
        *,
        subject: str,
        instance: str,
        ttl: float = TTL,
        clock: Callable[[], float] | None = None,
        incarnation: str = "",
    ) -> None:
        """`log` is the stream of leases."""
        self.changed: Callable[[], None] = _ignore_change
        """Called after each change of `held`, also if leadership was lost and regained between two checks."""
        self.trouble: Callable[[], str] = _no_trouble
        """Returns what keeps this replica from its work, stored with each renewal."""
        self.reached: Callable[[], int] = _unknown_progress
        """Returns the progress of the work at each renewal: events without effect leave no other trace in the log."""
        self._log = log
        self._subject = subject
        self._clock = clock or asyncio.get_running_loop().time
        self._ttl = ttl
        self._mine = Tenure(instance=instance, incarnation=incarnation or os.urandom(8).hex(), ttl=ttl)
        self._record: Record | None = None
        self._seen = self._clock()
        self._until = 0.0
        self._held = False
        self._has_led = False
        self._warm = asyncio.Event()
        self._stirred = asyncio.Event()
        self._ending = False
        self._gives_back = False

    @property
    def held(self) -> bool:
        """Whether this replica may lead at this moment."""
        return self._clock() < self._until

    @property
    def holder(self) -> str:
        """Instance in the newest record, running or not; empty if none is known."""
        tenure = self._tenure()
        return tenure.instance if tenure is not None and tenure.ttl else ""

    @property
    def vacant(self) -> float:
        """Seconds for which no replica has held the lease, as seen by this one; 0 while it is held."""
        if self.held:
            return 0.0
        tenure = self._tenure()
        return max(0.0, self._clock() - self._seen - (tenure.ttl if tenure is not None else 0.0))

    def campaign(self) -> None:
        """Take the lease as soon as it is free: this replica is ready to lead."""
        self._warm.set()

    def stand_aside(self) -> None:
        """Give the lease back and do not take it until `campaign`: another replica may be able to do the work."""
        self._warm.clear()
        self._gives_back = self._gives_back or self.held
        self._lead_until(0.0)
        self._stirred.set()

    async def run(self) -> None:
        """Watch the lease, take it when it is free, renew it while it is held; for ever."""
        async with background_task(self._watch()):
            while not self._ending:
                await self._give_back()
                await self._warm.wait()
                wait = await self._step()
                self._notify()
                if self._gives_back:
                    continue
                self._stirred.clear()
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(wait):
                        await self._stirred.wait()

    async def release(self) -> None:
        """Give the lease back, so that a standby takes over at once. Afterwards this replica leads no more."""
        held, self._ending = self.held, True
        self._lead_until(0.0)
        self._stirred.set()
        self._gives_back = self._gives_back or held
        await self._give_back()

    async def _give_back(self) -> None:
        if not self._gives_back:
            return
        self._gives_back = False
        try:
            async with asyncio.timeout(self._ttl):
                await self._write(msgspec.structs.replace(self._mine, ttl=0.0))
        except (EventLogError, TimeoutError) as error:
            _log.info("the lease was not given back, it will run out: %s", error)

    # One turn

    async def _step(self) -> float:
        """Do what is due; seconds until the next look."""
        now, tenure = self._clock(), self._tenure()
        mine = tenure is not None and tenure.incarnation == self._mine.incarnation
        # Only a process that has not led yet is the successor of one that died in its place.
        succeeds = tenure is not None and tenure.instance == self._mine.instance and not self._has_led
        if tenure is not None and tenure.ttl and not mine and not succeeds:
            left = self._seen + tenure.ttl - now
            if left > 0:
                return left
        return await self._attempt(after=self._ttl / _RENEWALS)

    async def _attempt(self, *, after: float) -> float:
        sent = self._clock()
        try:
            async with asyncio.timeout(self._ttl):
                mine = msgspec.structs.replace(self._mine, trouble=self.trouble()[:_LONGEST_TROUBLE])
                await self._write(mine)
        except (StaleWriterError, DuplicateError):
            # Another replica was faster, or the record changed.
            self._lead_until(0.0)
            await self._read()
            return _AGAIN / 4
        except (LogUnavailableError, TimeoutError) as error:
            # It may have been written: the next attempt must know.
            _log.debug("the lease cannot be written now: %s", error)
            await self._read()
            return _AGAIN
        if not self._warm.is_set():
            # It stood aside meanwhile.
            self._gives_back = True
        elif not self._ending:
            self._has_led = True
            self._lead_until(sent + self._ttl)
        return after

    async def _write(self, tenure: Tenure) -> None:
        record = self._record
        after = checkpoint_at(record) if record is not None else EMPTY
        tenure = msgspec.structs.replace(tenure, reached=self.reached() if tenure.ttl else 0)
        draft = Draft(subject=self._subject, payload=msgspec.json.encode(tenure))
        epoch = "" if after.epoch else os.urandom(8).hex()
        written = await self._log.append([draft], scope=self._subject, after=after, epoch=epoch)
        # The watcher will see it too; the next renewal need not wait for that.
        headers = {HEADER_EPOCH: written.epoch, HEADER_CHAIN: GENESIS if epoch else after.chain}
        if self._record is record:
            self._saw(
                Record(subject=self._subject, sequence=written.sequence, payload=draft.payload, time=0, headers=headers)
            )

    # Following the record

    async def _watch(self) -> None:
        while True:
            try:
                await self._read()
                start = self._record.sequence if self._record is not None else 1
                async for record in self._log.follow(start=start, subjects=self._subject):
                    known = self._record.sequence if self._record is not None else 0
                    if record.sequence == known:
                        continue
                    if record.sequence > known:
                        self._saw(record)
                    else:
                        # A late record, or a stream that was created again: ask the stream's leader.
                        await self._read()
                    self._stirred.set()
            except EventLogError as error:
                _log.debug("the lease cannot be watched now: %s", error)
            await asyncio.sleep(_AGAIN)

    async def _read(self) -> None:
        """Read the newest record; keep the known one while the log cannot be reached."""
        try:
            async with asyncio.timeout(self._ttl):
                found = await self._log.last(self._subject)
        except (LogUnavailableError, TimeoutError):
            return
        if found is None or self._record is None or found.sequence != self._record.sequence:
            self._saw(found)

    def _saw(self, record: Record | None) -> None:
        self._record, self._seen = record, self._clock()
        tenure = self._tenure()
        if tenure is None or tenure.incarnation != self._mine.incarnation:
            self._lead_until(0.0)

    def _tenure(self) -> Tenure | None:
        # A record that cannot be decoded has none; a campaigning replica replaces it.
        return tenure_in(self._record) if self._record is not None else None

    def _lead_until(self, moment: float) -> None:
        """Lead until then; 0: no more.

        The lead may have ended by time before. `changed` is called for that too, before it is called for the new state.
        """
        self._notify()
        self._until = moment
        self._notify()

    def _notify(self) -> None:
        if self.held != self._held:
            self._held = self.held
            _log.info("leading" if self._held else "standing by", extra={"lease": self._subject})
            self.changed()
