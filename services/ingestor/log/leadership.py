"""Decides whether this ingestor may append: it holds the lease, and can decode the whole log."""

from __future__ import annotations

from typing import Protocol

from services.ingestor.log.chain_position import ChainPosition


class Leadership(Protocol):
    """The lease of the ingestors of a cluster (`shared.service.lease.Lease`)."""

    @property
    def held(self) -> bool:
        """Whether this replica leads now."""
        ...

    def campaign(self) -> None:
        """Take the lease when it is free: this replica could lead."""
        ...

    def stand_aside(self) -> None:
        """Give up the lease and do not take it: this replica cannot lead."""
        ...


class SoleLeader:
    """A `Leadership` without other replicas."""

    @property
    def held(self) -> bool:
        """Always True."""
        return True

    def campaign(self) -> None:
        """Do nothing."""

    def stand_aside(self) -> None:
        """Do nothing."""


class LeadershipGate:
    """Combines the lease with the ability to decode the log."""

    def __init__(self, leadership: Leadership, position: ChainPosition) -> None:
        self._leadership = leadership
        self._position = position
        self._aside = False

    def campaign(self) -> None:
        """Take part in elections from now on, unless the log needs a newer build."""
        if not self._position.newer:
            self._leadership.campaign()

    def may_lead(self) -> bool:
        """Whether to append now. From the first record on that only a newer build can decode, the state is unknown."""
        aside = bool(self._position.newer)
        if aside != self._aside:
            self._aside = aside
            (self._leadership.stand_aside if aside else self._leadership.campaign)()
        return not aside and self._leadership.held
