"""Checks each new snapshot for consistency, if the settings ask for that; for tests and while a fault is searched."""

from __future__ import annotations

import logging

from services.xds_edge.counters import EdgeCounters
from services.xds_edge.snapshot.fleet import Fleet
from shared.records.consistency import Checker
from shared.records.snapshot import Commit

_log = logging.getLogger(__name__)

MOST_LOGGED = 20
"""Inconsistencies of one version that are logged."""


class SnapshotCheck:
    """Counts and logs the inconsistencies of snapshots."""

    def __init__(self, fleet: Fleet, counters: EdgeCounters) -> None:
        self._fleet = fleet
        self._counters = counters
        self._checker = Checker()

    def check(self, commit: Commit) -> None:
        """Check the fleet's snapshot after a commit.

        An inconsistent snapshot is served all the same: a proxy accepts the good part of it, and there is no older
        version to return to.
        """
        found = self._checker.check(self._fleet.snapshot, commit.views.keys() if commit.parent else None)
        self._counters.inconsistencies += len(found)
        for sentence in found[:MOST_LOGGED]:
            _log.error("version %d is inconsistent: %s", commit.version, sentence)
