"""Foreign records: those that no writer of a stream can have written. Readers skip, count and log them.

A NATS server stores whatever arrives on a subject of a stream. It checks a client's right to publish, but not the
reply subject of a request nor the delivery subject of a consumer, and then writes its own answers and heartbeats there.
No such record may stop a reader, so every implementation of the log reads through a `ForeignFilter`.

What is foreign:

* a record under a subject that its stream does not have (a push consumer delivers messages under their old subject);
* a record of a chained scope without any header of Meshlog. One with a damaged header is not foreign: it has the other
  headers, and breaks the chain;
* a copy that the server made of another record (the answer to a direct get): it has the server's marks;
* a record of an unchained stream that cannot be decoded as what belongs under its subject, or names another subject;
* on a subject that others than the writers of the chain may write (`StreamSpec.guests`: an operator's pin), a record
  that does not continue the chain, or begins an epoch. If it is genuine and its predecessor was lost, the next record
  does not continue the chain either, and shows the loss.

Foreign records are not part of a chain: writers continue the chain after them, and no reader yields them.

A record that continues the chain is part of it, whatever its content. If the content belongs under another subject,
the record is counted here, and readers that decode it (`shared.records.events.read`) skip it.
"""

from __future__ import annotations

import logging
import time
from collections import OrderedDict
from collections.abc import Awaitable, Callable

from shared.eventlog.chain import checkpoint_at
from shared.eventlog.protocol import GENESIS, HEADER_CHAIN, Checkpoint, Record
from shared.eventlog.stream_spec import StreamSpec, covering, matches

_log = logging.getLogger(__name__)

OURS = "Meshlog-"
"""Prefix of the names of all headers of a chain."""
COPIED_FROM = "Nats-Stream"
"""Header that the server puts on its copy of a record."""

_LOG_INTERVAL = 10.0
"""Seconds between two log lines about foreign records of one stream."""
_MAX_REASON = 300
"""Characters of why a record is foreign."""
_REMEMBERED = 4096
"""Foreign records of a stream that are remembered, so that each is counted once however often it is read."""


class ForeignRecords:
    """Counts foreign records by stream. Shared by all streams of one `Logs`."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self.counts: dict[str, int] = {}
        """By stream."""
        self.newest: dict[str, str] = {}
        """The newest one of each stream: its sequence and why it is foreign."""
        self.counted: Callable[[str], None] = _ignore
        """Called with the name of the stream for each foreign record."""
        self._clock = clock
        self._met: dict[str, OrderedDict[tuple[int, int], None]] = {}
        self._logged: dict[str, float] = {}
        self._unlogged: dict[str, int] = {}

    def note(self, stream: str, record: Record, why: str) -> None:
        """Count a record once, and log it unless another one of the stream was logged a moment ago."""
        met = self._met.setdefault(stream, OrderedDict())
        place = record.sequence, record.time
        if place in met:
            return
        why = _printable(why)
        met[place] = None
        if len(met) > _REMEMBERED:
            met.popitem(last=False)
        self.counts[stream] = self.counts.get(stream, 0) + 1
        self.newest[stream] = f"record {record.sequence} {why}"
        self.counted(stream)
        now = self._clock()
        if stream in self._logged and now - self._logged[stream] < _LOG_INTERVAL:
            self._unlogged[stream] = self._unlogged.get(stream, 0) + 1
            return
        self._logged[stream] = now
        more = self._unlogged.pop(stream, 0)
        _log.warning(
            "record %d of %s is passed over: it %s%s",
            record.sequence,
            stream,
            why,
            f"; {more} more since the last such line" if more else "",
            extra={"code": "log/foreign", "subject": record.subject},
        )


def _printable(why: str) -> str:
    """Replace unprintable characters: names in a foreign record are untrusted, and terminals obey escapes."""
    return "".join(char if char.isprintable() else "?" for char in why[:_MAX_REASON])


def _ignore(_stream: str) -> None:
    return


class ForeignFilter:
    """Decides which records of one stream are foreign."""

    def __init__(self, spec: StreamSpec, foreign: ForeignRecords) -> None:
        self._spec = spec
        self._foreign = foreign
        self._held = covering(spec.subjects)
        self._chained = covering(spec.chained)
        self._guest = covering(spec.guests)

    @property
    def has_guests(self) -> bool:
        """Whether others than the writers of the chain may write to one of its subjects."""
        return bool(self._spec.guests)

    @property
    def forgets(self) -> bool:
        """Whether the stream drops older records of a subject when newer ones come."""
        return bool(self._spec.max_per_subject)

    def is_guest(self, record: Record) -> bool:
        """Whether others than the writers of the chain may write to a record's subject."""
        return bool(self._spec.guests) and self._guest(record.subject)

    def scope(self, subjects: str) -> str:
        """The scope of the chain that a subject, or a pattern within one chain, belongs to; else the pattern itself."""
        if not self._spec.chain_tokens:
            return subjects
        tokens = subjects.split(".")[: self._spec.chain_tokens]
        return subjects if "*" in tokens or ">" in tokens else ".".join(tokens) + ".>"

    def why_foreign(self, record: Record) -> str:
        """Return why a record is foreign by itself, and count it; empty if it is not."""
        why = self._why_foreign(record)
        if why:
            self._foreign.note(self._spec.name, record, why)
        return why

    def _why_foreign(self, record: Record) -> str:
        if not self._held(record.subject):
            return f"stands under {record.subject[:200]}, which is no subject of this stream"
        if COPIED_FROM in record.headers:
            return "is a copy that the server made of another record"
        if not self._chained(record.subject):
            return self._spec.judge(record)
        if not any(name.startswith(OURS) for name in record.headers):
            return "carries no chain"
        return ""

    def why_unchained(self, before: Checkpoint | None, record: Record) -> str:
        """Return why a guest's record is foreign, and count it; the chain ended at `before` (None: unknown)."""
        why = _why_unchained(before, record)
        if why:
            self._foreign.note(self._spec.name, record, why)
        return why

    def why_void(self, record: Record) -> str:
        """Return why the content of a chained record is void, and count it; empty if it is valid."""
        why = self._spec.judge(record)
        if why:
            self._foreign.note(self._spec.name, record, why)
        return why


def _why_unchained(before: Checkpoint | None, record: Record) -> str:
    if record.headers.get(HEADER_CHAIN) == GENESIS:
        return "begins an epoch, which its writer may not"
    if before is None:
        return ""
    if record.epoch != before.epoch or record.headers.get(HEADER_CHAIN) != before.chain:
        return f"does not continue the chain behind record {before.sequence}, and its writer is none of the chain's"
    return ""


class ReadFilter:
    """Decides, for one reading in order, which records are the stream's own. Mutable; owned by the reader."""

    def __init__(
        self, foreign_filter: ForeignFilter, subjects: str, before: Callable[[Record], Awaitable[Checkpoint | None]]
    ) -> None:
        """`subjects` are those that are read. `before` looks up where the chain ended before a guest's record."""
        self._filter = foreign_filter
        self._subjects = subjects
        self._before = before
        self._ends: dict[str, Record | Checkpoint | None] = {}
        """Where the chain of each scope that is read whole has come to: its newest own record, or what was looked up.

        A record's hash is computed only when a guest's record follows it.
        """

    async def is_own(self, record: Record) -> bool:
        """Whether the next record is one of the stream's own."""
        foreign_filter = self._filter
        if foreign_filter.why_foreign(record):
            return False
        if not foreign_filter.has_guests:
            return True
        scope = foreign_filter.scope(record.subject)
        if foreign_filter.is_guest(record) and foreign_filter.why_unchained(await self._end(scope, record), record):
            return False
        foreign_filter.why_void(record)
        if matches(self._subjects, scope):
            self._ends[scope] = record
        return True

    async def _end(self, scope: str, record: Record) -> Checkpoint | None:
        """Where the chain ends before the record of a guest."""
        if scope not in self._ends:
            found = await self._before(record)
            if matches(self._subjects, scope):
                self._ends[scope] = found
            return found
        end = self._ends[scope]
        return checkpoint_at(end) if isinstance(end, Record) else end
