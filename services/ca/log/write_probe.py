"""Detects whether the log accepts the CA's writes. A CA that cannot write answers no request, so it is not ready.

The component whose write failed retries by itself, or the queue redelivers the request to another replica. The probe
appends notes of its own until the log accepts one, so that readiness does not depend on the next request.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable

from shared.eventlog.protocol import Draft, EventLog, EventLogError
from shared.records.certificate_records import AuditNote, encode
from shared.records.subjects import Streams

_log = logging.getLogger(__name__)
RETRY_SECONDS = 0.5
"""Seconds between a failed write and the next; a log that elects a leader is available again by then."""
_WHAT = "log"


class WriteProbe:
    """Components report failed writes to it; `run` it as a task."""

    def __init__(self, certs: EventLog, *, streams: Streams, ready: Callable[[str, bool, str], None]) -> None:
        """`ready` sets the condition `log` of the CA's readiness."""
        self._certs = certs
        self._streams = streams
        self._ready = ready
        self._failed = asyncio.Event()
        self.trouble = ""
        """Why the log accepts no write now; empty if it does."""

    def failed(self, error: EventLogError) -> None:
        """Report a failed write. The probe then checks whether the next one fails, too."""
        _log.debug("a write failed: %s", error)
        self._failed.set()

    async def run(self) -> None:
        """After each failed write, append notes until the log accepts one. Never returns."""
        while True:
            await self._failed.wait()
            await asyncio.sleep(RETRY_SECONDS)
            try:
                await self._note()
            except EventLogError as error:
                self.trouble = f"the log cannot be written, so no request is answered: {error}"
                self._ready(_WHAT, False, self.trouble)
                continue
            self._failed.clear()
            self.trouble = ""
            self._ready(_WHAT, True, "")

    async def _note(self) -> None:
        why = f"before: {self.trouble}" if self.trouble else "one write failed, the next did not"
        note = AuditNote(what=_WHAT, code="log/written", why=why)
        await self._certs.publish(Draft(subject=self._streams.audit_subject(_WHAT), payload=encode(note)))
