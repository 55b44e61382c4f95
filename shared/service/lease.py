"""Who of several replicas leads: a lease, kept by renewing one record of the log.

A lease makes replicas polite, never correct: what a leader writes is guarded by expected sequences, so a leader that
was paused, cut off or deposed is refused by the log whatever it believes. The lease only says who should try.

The record names its holder, and every renewal replaces it under the expected sequence of the one before, so two
replicas never hold the lease by the same record. Nobody compares clocks: a standby measures, by its own steady clock,
how long the record has not been renewed, and a holder stops believing in itself `ttl` after it *sent* its last
renewal, which is earlier than any standby can begin to campaign. A holder that stops gives the lease back, and the
next has it within the time of two messages. A process that comes back in the place of a killed one (the same
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
from shared.service.background_task import beside

_log = logging.getLogger(__name__)

TTL = 1.5
"""Seconds after which a lease that is not renewed may be taken by another."""
_RENEWALS = 2.5
"""Renewals in the time of one lease: one may be lost."""
_AGAIN = 0.2
"""Seconds between attempts while the log refuses or is away."""


class Tenure(msgspec.Struct, frozen=True, omit_defaults=True):
    """What the record of a lease says."""

    instance: str
    """Pod or process that holds it, for people and for its own successor."""
    incarnation: str
    """Random, of this very process."""
    ttl: float
    """Seconds from a renewal to the end; 0: given back."""
    trouble: str = ""
    """What keeps the holder from its work, for people; empty: nothing."""
    reached: int = 0
    """Up to which event the holder has done all that is to be done, as of this renewal; 0: it does not say."""


def _nobody_waits() -> None:
    return


def _no_trouble() -> str:
    return ""


_LONGEST_TROUBLE = 1000
"""Characters."""


def _says_nothing() -> int:
    return 0


def tenure_in(record: Record) -> Tenure | None:
    """What a record of a lease says; none if no build of ours wrote it."""
    try:
        return decode(Tenure, record.payload)
    except UndecodableError:
        return None


class Lease:
    """One replica's claim to one lease. `run` it beside the work; ask `held` before leading."""

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
        self.changed: Callable[[], None] = _nobody_waits
        """Called whenever `held` has changed; also if it is again what it was, and was not in between."""
        self.trouble: Callable[[], str] = _no_trouble
        """What keeps this replica from its work, said with each renewal."""
        self.reached: Callable[[], int] = _says_nothing
        """Asked at each renewal how far the work has come: what changes nothing leaves no other trace in the log."""
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
        """Instance that the newest record names, living or not; empty: none is known."""
        tenure = self._tenure()
        return tenure.instance if tenure is not None and tenure.ttl else ""

    @property
    def vacant(self) -> float:
        """For how many seconds nobody has held the lease, as far as this replica sees; 0: somebody holds it."""
        if self.held:
            return 0.0
        tenure = self._tenure()
        return max(0.0, self._clock() - self._seen - (tenure.ttl if tenure is not None else 0.0))

    def campaign(self) -> None:
        """From now on this replica wants the lease: it is warm."""
        self._warm.set()

    def stand_aside(self) -> None:
        """From now on this replica does not want it, until it campaigns again: others can do what it cannot."""
        self._warm.clear()
        self._gives_back = self._gives_back or self.held
        self._lead_until(0.0)
        self._stirred.set()

    async def run(self) -> None:
        """Watch the lease, take it when it is free, renew it while it is held; for ever."""
        async with beside(self._watch()):
            while not self._ending:
                await self._give_back()
                await self._warm.wait()
                wait = await self._step()
                self._tell()
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
            # Somebody was quicker, or the record is another than we thought.
            self._lead_until(0.0)
            await self._look()
            return _AGAIN / 4
        except (LogUnavailableError, TimeoutError) as error:
            # It may be written all the same: the next attempt must know.
            _log.debug("the lease cannot be written now: %s", error)
            await self._look()
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

    # What the log says

    async def _watch(self) -> None:
        while True:
            try:
                await self._look()
                start = self._record.sequence if self._record is not None else 1
                async for record in self._log.follow(start=start, subjects=self._subject):
                    known = self._record.sequence if self._record is not None else 0
                    if record.sequence == known:
                        continue
                    if record.sequence > known:
                        self._saw(record)
                    else:
                        # Late news, or a stream made anew: the log's leader knows.
                        await self._look()
                    self._stirred.set()
            except EventLogError as error:
                _log.debug("the lease cannot be watched now: %s", error)
            await asyncio.sleep(_AGAIN)

    async def _look(self) -> None:
        """Read the record as it is; a log that cannot be reached tells nothing."""
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
        # Of a record that no build of ours wrote there is none: whoever campaigns replaces it.
        return tenure_in(self._record) if self._record is not None else None

    def _lead_until(self, moment: float) -> None:
        """Lead until then; 0: no more.

        Time alone may have ended the lead before. Who asked meanwhile stands by, and waits to be told of the next.
        """
        self._tell()
        self._until = moment
        self._tell()

    def _tell(self) -> None:
        if self.held != self._held:
            self._held = self.held
            _log.info("leading" if self._held else "standing by", extra={"lease": self._subject})
            self.changed()
