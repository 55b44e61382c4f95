"""The hash chain of a scope: continued by writers, verified by readers. Pure.

A stream that lost or changed a record answers every call as before (JetStream logs nothing, see
`shared.eventlog.protocol`). The chain shows the loss: each record carries the hash of all records before it.
"""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from shared.eventlog.protocol import (
    GENESIS,
    HEADER_AFTER,
    HEADER_BATCH,
    HEADER_BEGINS,
    HEADER_CHAIN,
    HEADER_EPOCH,
    MAX_BATCH,
    MAX_PAYLOAD,
    BatchTooLargeError,
    ChainBrokenError,
    Checkpoint,
    Draft,
    Record,
    chain_after,
)
from shared.eventlog.stream_spec import matches
from shared.eventlog.trim_marker import TrimCheck, sealed


class ChainedBatch(msgspec.Struct, frozen=True):
    """A batch ready to be written: the headers of each draft, and the chain after the last."""

    headers: list[dict[str, str]]
    epoch: str
    chain: str

    def checkpoint(self, sequence: int) -> Checkpoint:
        """The checkpoint after the batch, whose last record got `sequence`."""
        return Checkpoint(epoch=self.epoch, sequence=sequence, chain=self.chain)


def check_size(drafts: Sequence[Draft]) -> None:
    """Raise `BatchTooLargeError` for more than `MAX_BATCH` drafts, or one above `MAX_PAYLOAD` bytes."""
    if len(drafts) > MAX_BATCH:
        raise BatchTooLargeError(
            "log/batch-too-large", f"{len(drafts)} records do not fit into one atomic batch of at most {MAX_BATCH}"
        )
    for draft in drafts:
        if len(draft.payload) > MAX_PAYLOAD:
            raise BatchTooLargeError(
                "log/record-too-large",
                f"a record of {len(draft.payload)} bytes exceeds the limit of {MAX_PAYLOAD}",
                about=draft.subject,
            )


def chain_batch(drafts: Sequence[Draft], *, scope: str, after: Checkpoint, epoch: str = "") -> ChainedBatch:
    """Continue the chain of `scope` by `drafts`, or start the new `epoch` with them.

    Raises `BatchTooLargeError`; and `ValueError`, which is a bug of the caller, for no drafts, a draft outside the
    scope, or no epoch to continue.
    """
    if not drafts:
        raise ValueError("an append needs at least one record")
    if epoch and epoch == after.epoch:
        raise ValueError(f"epoch {epoch} is not new")
    if not epoch and not after.epoch:
        raise ValueError("the first append to a scope starts an epoch: name it")
    check_size(drafts)
    chain = GENESIS if epoch else after.chain
    epoch = epoch or after.epoch
    headers: list[dict[str, str]] = []
    for index, draft in enumerate(drafts, start=1):
        if not matches(scope, draft.subject):
            raise ValueError(f"{draft.subject} is outside the scope {scope}")
        own = {HEADER_EPOCH: epoch, HEADER_CHAIN: chain, HEADER_BATCH: f"{index}/{len(drafts)}"}
        if HEADER_BEGINS in draft.headers:
            own[HEADER_BEGINS] = sealed(draft.headers[HEADER_BEGINS], chain)
        chain = own[HEADER_AFTER] = chain_after(chain, draft.subject, draft.payload)
        headers.append({**draft.headers, **own})
    return ChainedBatch(headers=headers, epoch=epoch, chain=chain)


def checkpoint_at(record: Record) -> Checkpoint:
    """The checkpoint after a record, believing its headers.

    After an unchained record the epoch is empty, so that only a new epoch can follow it.
    """
    before = record.headers.get(HEADER_CHAIN)
    if not before or not record.epoch:
        return Checkpoint(epoch="", sequence=record.sequence, chain=GENESIS)
    chain = chain_after(before, record.subject, record.payload)
    return Checkpoint(epoch=record.epoch, sequence=record.sequence, chain=chain)


def was_changed(record: Record) -> bool:
    """Whether a record differs from its own hash; false for a record of an older build, which has no such hash."""
    after = checkpoint_at(record).chain
    return record.headers.get(HEADER_AFTER, after) != after


class ChainVerifier:
    """Folds the records of one scope and stops at the first that does not continue the chain.

    Start it at the checkpoint that was folded up to, at `EMPTY` to read a scope from its very beginning, or with
    None to trust the headers of the first record (of a stream that was trimmed, or in the middle of one); `headless`
    then shows whether they could be trusted.
    """

    def __init__(self, checkpoint: Checkpoint | None = None) -> None:
        self._checkpoint = checkpoint
        self._left: set[str] = set()
        self._beginning = TrimCheck()

    @property
    def checkpoint(self) -> Checkpoint:
        """After the last record folded."""
        return self._checkpoint or Checkpoint(epoch="", sequence=0, chain=GENESIS)

    @property
    def headless(self) -> str:
        """Why the beginning of what was read is missing; empty if it is there, as far as the log shows.

        Valid after the last record was read: a trim marker follows the beginning that it allows.
        """
        return self._beginning.missing

    def fold(self, record: Record) -> bool:
        """Take the next record of the scope; true if it starts a new epoch: what was folded before is void.

        Raises `ChainBrokenError` at a hole, a rollback, a reordering, a changed byte or an unchained record; the
        checkpoint then stays where it was. A record with `GENESIS` under an epoch not seen before starts that epoch,
        even at a sequence below the checkpoint's: the stream may have been made anew.
        """
        now = self._checkpoint
        before = record.headers.get(HEADER_CHAIN, "")
        after = checkpoint_at(record)
        if not after.epoch:
            raise self._broken(record, "carries no chain")
        if now is not None and was_changed(record):
            raise self._broken(record, "is not what was written: it was changed")
        starts = before == GENESIS and (now is None or record.epoch != now.epoch)
        if starts:
            if record.epoch in self._left:
                raise self._broken(record, f"starts epoch {record.epoch}, which had ended")
            if now is not None and now.epoch:
                self._left.add(now.epoch)
            self._beginning.whole()
        elif now is not None:
            self._check_continues(record, before, now)
        else:
            self._beginning.believe(record)
        self._beginning.weigh(record)
        self._checkpoint = after
        return starts

    def _check_continues(self, record: Record, before: str, now: Checkpoint) -> None:
        if record.epoch != now.epoch:
            raise self._broken(record, f"is in the middle of epoch {record.epoch}, not of {now.epoch or 'none'}")
        if record.sequence <= now.sequence:
            raise self._broken(record, f"comes after {now.sequence}: the log was rolled back")
        if before != now.chain:
            raise self._broken(record, f"does not continue {now.sequence}: records between were lost or changed")

    def _broken(self, record: Record, reason: str) -> ChainBrokenError:
        return ChainBrokenError("log/chain-broken", f"record {record.sequence} {reason}", about=record.subject)
