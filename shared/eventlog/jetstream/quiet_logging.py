"""Switches the log lines of the event log's client off, while a command reports errors itself.

A service logs that the connection was lost and restored. A command waits for the log with a deadline and an error
message of its own, so these lines would only clutter its output. They are switched on again at the end of the scope.
"""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Generator

NAME = "shared.eventlog"
"""The logger above those of all modules of this package."""

_restored: list[int] = []
"""The level to set when the last scope ends; one entry for each open scope."""


@contextlib.contextmanager
def quiet_logging() -> Generator[None]:
    """Suppress lines less severe than critical in this scope; scopes may overlap."""
    logger = logging.getLogger(NAME)
    _restored.append(_restored[0] if _restored else logger.level)
    # A level holds for the loggers below it; a filter would not.
    logger.setLevel(logging.CRITICAL)
    try:
        yield
    finally:
        level = _restored.pop()
        if not _restored:
            logger.setLevel(level)
