"""Keeps the last good state on disk current: written soon after each change, and at the end."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Mapping
from pathlib import Path

from services.xds_edge.snapshot import disk_cache
from services.xds_edge.snapshot.disk_cache import LastGood
from services.xds_edge.snapshot.fleet import Fleet
from shared.eventlog.protocol import EMPTY, Checkpoint
from shared.projected_objects import TokenIssuer
from shared.records.certificate_records import TrustBundle

_log = logging.getLogger(__name__)

SAVE_DELAY = 1.0
"""Seconds that a change waits before it is saved, so that a burst is saved once."""
SAVE_SHARE = 50
"""A save is followed by a pause of this many times its duration: saving takes at most 2 % of the time."""


class LastGoodState:
    """The last good state of one edge."""

    def __init__(self, directory: Path | None, fleet: Fleet) -> None:
        """`directory`: where it is kept, or None to keep nothing."""
        self._directory = directory
        self._fleet = fleet
        self._changed = asyncio.Event()
        self.loaded = LastGood(format=disk_cache.FORMAT)
        """The state that `load` found."""
        self.bundle: TrustBundle | None = None
        self.checkpoint: Callable[[], Checkpoint] = lambda: self.loaded.checkpoint
        """The place of the snapshot in the stream of commits."""
        self.issuers: Callable[[], Mapping[str, TokenIssuer]] = lambda: self.loaded.issuers
        """Token issuers by cluster."""

    def load(self) -> LastGood | None:
        """Read the state, or return None if there is no valid one."""
        state = disk_cache.read(self._directory) if self._directory is not None else None
        if state is not None:
            self.loaded = state
            if state.keyframe is None:
                self.loaded = LastGood(state.format, EMPTY, None, state.issuers, state.bundle)
        return state

    def changed(self) -> None:
        """Have the state written soon."""
        self._changed.set()

    async def save(self) -> None:
        """Write the state to disk, if there is a directory and a snapshot; a failure is logged."""
        if self._directory is None or not self._fleet.version:
            return
        # Encoded in one go on this thread, because the event loop folds commits into the snapshot. Only the disk is
        # waited for on another thread.
        content = disk_cache.encode(
            LastGood(
                format=disk_cache.FORMAT,
                checkpoint=self.checkpoint(),
                keyframe=self._fleet.snapshot.keyframe(),
                issuers=dict(self.issuers()),
                bundle=self.bundle,
            )
        )
        try:
            await asyncio.to_thread(disk_cache.write, self._directory, content)
        except OSError as error:
            _log.warning("the last good state cannot be written: %s", error)

    async def run(self) -> None:
        """Save each change; runs until it is cancelled."""
        while True:
            await self._changed.wait()
            await asyncio.sleep(SAVE_DELAY)
            self._changed.clear()
            began = time.monotonic()
            await self.save()
            await asyncio.sleep((time.monotonic() - began) * SAVE_SHARE)
