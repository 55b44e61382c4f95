"""Whether the CA can write to the log; without that it answers no request, however well it runs.

A write that failed is tried again by its own part, or comes again to another replica. So that this one neither stays
unready for ever nor has to wait for the next request, it writes a note of its own until one is taken.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable

from shared.eventlog.protocol import Draft, EventLog, EventLogError
from shared.records.certificates import AuditNote, encode
from shared.records.subjects import Streams

_log = logging.getLogger(__name__)
RETRY_SECONDS = 0.5
"""Between a write that failed and the next; a log that merely elects a leader is back by then."""
_WHAT = "log"


class WriteProbe:
    """Told of each write by those who write; `run` it as a task."""

    def __init__(self, certs: EventLog, *, streams: Streams, ready: Callable[[str, bool, str], None]) -> None:
        """`ready` is told under the name `log`."""
        self._certs = certs
        self._streams = streams
        self._ready = ready
        self._failed = asyncio.Event()
        self.trouble = ""
        """Why nothing can be written now; empty: it can."""

    def failed(self, error: EventLogError) -> None:
        """A write failed: find out whether the next does too."""
        _log.debug("a write failed: %s", error)
        self._failed.set()

    async def run(self) -> None:
        """For ever: after a write that failed, write until one is taken."""
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
