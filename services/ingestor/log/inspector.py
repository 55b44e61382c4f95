"""Inspects the log between rounds: it may have moved on, been rolled back, damaged, or be due for compaction."""

from __future__ import annotations

from collections.abc import Callable

from services.ingestor.log.chain_position import LOG_UNAVAILABLE, ChainPosition
from services.ingestor.log.compaction import Compactor
from shared.eventlog.protocol import DuplicateError, EventLog, LogFullError, LogUnavailableError, StaleWriterError


class LogInspector:
    """Compares the log's tip often, and reads the whole chain seldom."""

    def __init__(
        self,
        log: EventLog,
        position: ChainPosition,
        compactor: Compactor,
        *,
        clock: Callable[[], float],
        tip_interval: float,
        chain_interval: float,
    ) -> None:
        """`tip_interval`, `chain_interval`: seconds between two looks at the tip, and two readings of the chain."""
        self._log = log
        self._position = position
        self._compactor = compactor
        self._clock = clock
        self._tip_interval = tip_interval
        self._chain_interval = chain_interval
        self.due = 0.0
        """Time of the next inspection, of the clock."""
        self._chain_due = 0.0

    def start(self) -> None:
        """Schedule the first inspections: the whole chain was just read."""
        now = self._clock()
        self.due, self._chain_due = now + self._tip_interval, now + self._chain_interval

    def hasten(self) -> None:
        """Inspect at the next opportunity."""
        self.due = self._clock()

    async def inspect(self) -> bool:
        """Update the position from the log, and compact it after its chain was read; False if it is unavailable."""
        position = self._position
        now = self._clock()
        self.due = now + self._tip_interval
        try:
            if now >= self._chain_due or await position.lost_records():
                self._chain_due = now + self._chain_interval
                await position.read_all()
                if not position.broken and not position.newer:
                    await self._compactor.run(position)
            elif await self._log.tip(position.scope) != position.tip:
                await position.catch_up(position.tip)
        except LogUnavailableError as error:
            position.trouble = str(error) if isinstance(error, LogFullError) else LOG_UNAVAILABLE
            return False
        except (StaleWriterError, DuplicateError):
            # Another writer appends: read its records before the next round.
            await position.catch_up(position.tip)
        position.trouble = ""
        return True
