"""Trim markers: let a reader distinguish a trimmed chain from one whose first records were lost.

A scope begins with the first record of an epoch, or where its writer trimmed it. A stream that lost its first record
looks like the second. So before a trim, the writer stores in the log with which record the scope will begin: a *mark*,
a header of some later record. A reader that begins in the middle of an epoch and meets no mark for its first record
reads a damaged log.

The mark contains a hash over the chain before its record. So it is valid at this place of this chain only, and as the
chain from the first record to the mark is verified, nothing is missing between them.

Older builds ignore the header, and logs that they wrote have no marks. The id of an epoch shows whether its writers
mark their trims. If they do not, the beginning is trusted until the epoch holds a mark.
"""

from __future__ import annotations

from shared.eventlog.protocol import HEADER_BEGINS, HEADER_CHAIN, Record, chain_after

_MARKED = "-m"


def with_marks(epoch: str) -> str:
    """The id of an epoch whose trims are marked."""
    return epoch + _MARKED


def has_marks(epoch: str) -> bool:
    """Whether every trim of this epoch is marked."""
    return epoch.endswith(_MARKED)


def sealed(first: str, before: str) -> str:
    """The header of the record behind the chain `before`: the scope may begin with the record of sequence `first`."""
    return f"{first}/{chain_after(before, HEADER_BEGINS, first.encode())}"


def mark_of(record: Record) -> int:
    """Return the sequence with which the scope may begin by this record; 0 without a mark of this place."""
    text = record.headers.get(HEADER_BEGINS, "")
    first = text.partition("/")[0]
    if not first.isdecimal() or text != sealed(first, record.headers.get(HEADER_CHAIN, "")):
        return 0
    return int(first)


class TrimCheck:
    """Whether the records folded so far begin where the scope may begin. Mutable; owned by a `ChainVerifier`."""

    def __init__(self) -> None:
        self._first: Record | None = None
        self._marked = 0

    def believe(self, first: Record) -> None:
        """Reading begins with this record, in the middle of its epoch."""
        self._first, self._marked = first, 0

    def whole(self) -> None:
        """An epoch has begun: nothing before it matters."""
        self._first = None

    def weigh(self, record: Record) -> None:
        """Take a record that continues the chain and may hold a mark."""
        if self._first is None or HEADER_BEGINS not in record.headers:
            return
        mark = mark_of(record)
        if self._first.sequence <= mark:
            self._first = None
        self._marked = max(self._marked, mark)

    @property
    def missing(self) -> str:
        """Why the beginning was lost; empty if it was not, or if the log is too old to show it."""
        first = self._first
        if first is None:
            return ""
        if self._marked:
            return f"it begins with record {first.sequence}, and was trimmed up to {self._marked} only"
        if has_marks(first.epoch):
            return f"it begins with record {first.sequence}, inside epoch {first.epoch}, and no trim is on record"
        return ""
