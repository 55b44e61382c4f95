"""Where a chained scope may begin, said by the log itself, so that a lost beginning is no trim.

A scope begins with the first record of an epoch, or where its writer trimmed it. A stream that lost its first record
looks like the second. So whoever trims says first, in the log, with which record it will begin: a *mark*, a header of
some record behind that one. A reader that begins in the middle of an epoch and meets no mark for its first record
reads a damaged log.

The mark carries a seal over the chain before the record that carries it. So it holds for this place of this chain and
no other, and as the chain from the first record to the mark is verified, nothing is missing between them.

The header is nothing to older builds, which read a log as they did. Logs that they wrote know no marks: the id of an
epoch says whether those who write it mark their trims, and one that does not is believed where it begins, until it
holds a mark.
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
    """The sequence with which the scope may begin as this record says; 0 if it says nothing, or not in its own name."""
    text = record.headers.get(HEADER_BEGINS, "")
    first = text.partition("/")[0]
    if not first.isdecimal() or text != sealed(first, record.headers.get(HEADER_CHAIN, "")):
        return 0
    return int(first)


class Beginning:
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
        """Take a record that continues the chain: it may say where the scope may begin."""
        if self._first is None or HEADER_BEGINS not in record.headers:
            return
        mark = mark_of(record)
        if self._first.sequence <= mark:
            self._first = None
        self._marked = max(self._marked, mark)

    @property
    def missing(self) -> str:
        """Why it is a beginning that was lost; empty: it was not, or the log is too old to tell."""
        first = self._first
        if first is None:
            return ""
        if self._marked:
            return f"it begins with record {first.sequence}, and was trimmed up to {self._marked} only"
        if has_marks(first.epoch):
            return f"it begins with record {first.sequence}, in the middle of epoch {first.epoch}, which nobody trimmed"
        return ""
