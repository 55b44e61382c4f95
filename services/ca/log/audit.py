"""The audit trail beside certificates: refusals, with the reason that their callers are not told.

Written behind the answers, so that nobody waits for it; bounded, because refusals are what a flood is made of.
"""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import Callable

from shared.eventlog.protocol import Draft, EventLog, EventLogError
from shared.records.certificates import AuditNote, encode
from shared.records.subjects import Streams

_log = logging.getLogger(__name__)
KEPT = 1000
"""Notes that wait for the log; beyond, the oldest are dropped, counted and said."""
PACE_SECONDS = 0.05
_RETRY_SECONDS = 1.0


class AuditTrail:
    """Writes notes to the log; `run` it as a task."""

    def __init__(
        self, certs: EventLog, *, streams: Streams, failed: Callable[[EventLogError], None] = lambda _: None
    ) -> None:
        """`failed` is told of each write that was not taken."""
        self._certs = certs
        self._failed = failed
        self._streams = streams
        self._waiting: deque[AuditNote] = deque()
        self._dropped = 0
        self._woken = asyncio.Event()

    def note(self, note: AuditNote) -> None:
        """Have it written soon."""
        if len(self._waiting) >= KEPT:
            self._waiting.popleft()
            self._dropped += 1
        self._waiting.append(note)
        self._woken.set()

    async def run(self) -> None:
        """Write for ever; at most 20 notes a second, so that a flood of refusals floods no log."""
        while True:
            await self._woken.wait()
            self._woken.clear()
            while self._waiting:
                note = self._waiting[0]
                try:
                    await self._certs.publish(
                        Draft(subject=self._streams.audit_subject(note.what), payload=encode(note))
                    )
                except EventLogError as error:
                    _log.warning("the audit trail cannot be written now: %s", error)
                    self._failed(error)
                    await asyncio.sleep(_RETRY_SECONDS)
                    continue
                if self._waiting and self._waiting[0] is note:
                    self._waiting.popleft()
                if self._dropped:
                    _log.warning("%d refusals are not in the audit trail: too many at once", self._dropped)
                    self._dropped = 0
                await asyncio.sleep(PACE_SECONDS)
