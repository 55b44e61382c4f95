"""Writes the states of this edge's proxies to `MESH_STATUS`, in as few records as possible.

The newest state of a proxy replaces an older one that was not written yet. What people wait for (a completely held
version, a refusal, a connect or disconnect) is written at once; meanwhile further states gather, so that bursts are
batched. A watermark that moved only in part waits a moment for the rest. A version that does not concern a proxy causes
no record, and neither does an idle edge.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable

from shared.eventlog.protocol import Draft, EventLog, EventLogError
from shared.io.decoding import UndecodableError
from shared.records.proxy_status import ProxyStatus, decode_status, encode_status
from shared.records.subjects import Streams
from shared.timing.backoff import Backoff

_log = logging.getLogger(__name__)

PARTIAL_DELAY = 0.05
"""Seconds that a watermark which moved in part waits for the rest."""
AT_ONCE = 64
"""Records that are written concurrently."""
_BACKOFF = Backoff(first=1.0, longest=5.0)

Report = Callable[[], ProxyStatus]


class StatusReporter:
    """Writes to `MESH_STATUS`; `run` it as a task."""

    def __init__(self, *, streams: Streams, edge: str, trace_headers: Callable[[], dict[str, str]] = dict) -> None:
        self._streams = streams
        self._edge = edge
        self._trace_headers = trace_headers
        self._due: dict[str, Report] = {}
        self._partial: dict[str, Report] = {}
        self._ended: set[str] = set()
        self._wake = asyncio.Event()
        self._later: asyncio.TimerHandle | None = None
        self._idle = asyncio.Event()
        self._idle.set()
        self.written = 0
        self.written_bytes = 0

    def note(self, key: str, report: Report, *, urgent: bool, ended: bool = False) -> None:
        """Have the state of a proxy written; `report` returns the newest state at that time."""
        if ended:
            self._ended.add(key)
        else:
            self._ended.discard(key)
        self._idle.clear()
        if urgent or key in self._due:
            self._partial.pop(key, None)
            self._due[key] = report
            self._wake.set()
            return
        self._partial[key] = report
        if self._later is None:
            self._later = asyncio.get_running_loop().call_later(PARTIAL_DELAY, self._ripen)

    async def run(self, log: EventLog) -> None:
        """Write until cancelled. A state that cannot be written is kept, one for each proxy, and retried."""
        delays = _BACKOFF.delays()
        while True:
            if not self._due and not self._partial:
                self._idle.set()
            await self._wake.wait()
            self._wake.clear()
            due, self._due = self._due, {}
            ended = self._ended & due.keys()
            self._ended -= ended
            failed = await self._write_all(log, due, ended)
            if not failed:
                delays.reset()
                continue
            for key, report in failed.items():
                if key not in self._due:
                    self._due[key] = report
                    self._ended |= {key} & ended
            self._wake.set()
            await asyncio.sleep(delays.next())

    async def flushed(self) -> None:
        """Wait until everything is written."""
        await self._idle.wait()

    def _ripen(self) -> None:
        self._later = None
        self._due = {**self._partial, **self._due}
        self._partial.clear()
        self._wake.set()

    async def _write_all(self, log: EventLog, due: dict[str, Report], ended: set[str]) -> dict[str, Report]:
        """Write these states; returns those that could not be written."""
        failed: dict[str, Report] = {}
        keys = list(due)
        for start in range(0, len(keys), AT_ONCE):
            part = keys[start : start + AT_ONCE]
            results = await asyncio.gather(*(self._write(log, due[key](), key in ended) for key in part))
            failed.update({key: due[key] for key, written in zip(part, results, strict=True) if not written})
        return failed

    async def _write(self, log: EventLog, status: ProxyStatus, ended: bool) -> bool:  # noqa: FBT001 (private, one caller)
        subject = self._streams.status_subject(status.cluster, status.namespace, status.pod)
        try:
            if ended and await self._elsewhere(log, subject):
                return True
            payload = encode_status(status)
            await log.publish(Draft(subject=subject, payload=payload, headers=self._trace_headers()))
        except EventLogError as error:
            _log.warning("the status of %s cannot be written now: %s", subject, error)
            return False
        self.written += 1
        self.written_bytes += len(payload)
        return True

    async def _elsewhere(self, log: EventLog, subject: str) -> bool:
        """Whether another edge has reported the proxy since; then a report about its end would be wrong."""
        last = await log.last(subject)
        if last is None:
            return False
        try:
            status = decode_status(last.payload)
        except UndecodableError:
            return False
        return status.connected and status.edge != self._edge
