"""The audit trail of refusals, with the reasons that the requesters do not receive.

Notes are appended after the answers, so that no request waits for them. Their number is bounded, because a flood of
requests consists of refusals.
"""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import Callable

from shared.eventlog.protocol import Draft, EventLog, EventLogError
from shared.records.certificate_records import AuditNote, encode
from shared.records.subjects import Streams

_log = logging.getLogger(__name__)
KEPT = 1000
"""Notes that wait for the log at most. If there are more, the oldest are dropped, counted and logged."""
PACE_SECONDS = 0.05
"""Seconds between two notes."""
_RETRY_SECONDS = 1.0


class AuditTrail:
    """Appends notes to the log; `run` it as a task."""

    def __init__(
        self, certs: EventLog, *, streams: Streams, failed: Callable[[EventLogError], None] = lambda _: None
    ) -> None:
        """`failed` is called with the error of each write that the log rejected."""
        self._certs = certs
        self._failed = failed
        self._streams = streams
        self._waiting: deque[AuditNote] = deque()
        self._dropped = 0
        self._woken = asyncio.Event()

    def note(self, note: AuditNote) -> None:
        """Queue a note."""
        if len(self._waiting) >= KEPT:
            self._waiting.popleft()
            self._dropped += 1
        self._waiting.append(note)
        self._woken.set()

    async def run(self) -> None:
        """Append notes for ever, at most 20 a second, so that a flood of refusals does not flood the log."""
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
