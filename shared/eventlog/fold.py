"""What the records of a view mean: the contract between `shared.eventlog.view` and the folds of services. Pure."""

from __future__ import annotations

from typing import Protocol

import msgspec

from shared.errors import MeshlogError
from shared.eventlog.protocol import EventLogError, Record
from shared.io.decoding import UndecodableError

UNREADABLE = (MeshlogError, UndecodableError)
"""What a fold may raise for a record that it cannot use. The record is skipped."""


class ViewRestartError(EventLogError):
    """What was folded cannot be continued by what comes: the view reads again, after its back-off."""


class Epoch(msgspec.Struct, frozen=True):
    """An epoch of one chain."""

    chain: str
    """The scope of the chain, as `Streams.chain_scope` names it."""
    id: str
    """Empty: the chain holds no record any more."""


class Fold(Protocol):
    """What the records of a view mean. Calls never overlap."""

    def reset(self, epoch: Epoch, /) -> None:
        """Void what was folded of this chain: the records of `epoch` follow."""
        ...

    def fold(self, record: Record, /) -> bool:
        """Take the next record; false if nothing is held of its subject afterwards (after a deletion, for example).

        Raises one of `UNREADABLE` for a record that cannot be used: what was known of its subject stays in force.
        Raises `ViewRestartError` if the records have to be read again from the beginning.
        """
        ...
