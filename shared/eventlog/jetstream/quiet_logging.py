"""Silence of the log's client, for as long as a command speaks for itself.

A service says that it lost the log and that it found it again. A command waits an outage out, with a deadline and a
sentence of its own, and those lines would only stand between its answers. The silence ends with its scope: what else
runs in the process is heard before and after it.
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
def hushed() -> Generator[None]:
    """Keep what is less than critical to itself while this lasts; scopes may overlap, each ends alone."""
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
