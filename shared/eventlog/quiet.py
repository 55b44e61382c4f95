"""Silence of the log's client, for as long as a command speaks for itself.

A service says that it lost the log and that it found it again. A command waits an outage out, with a deadline and a
sentence of its own, and those lines would only stand between its answers. The silence ends with its scope: what else
runs in the process is heard before and after it.
"""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Generator

NAME = "meshlog.eventlog"
"""The logger of everything in this package."""


@contextlib.contextmanager
def hushed() -> Generator[None]:
    """Keep what is less than critical to itself while this lasts; scopes may overlap, each ends alone."""

    def critical(record: logging.LogRecord) -> bool:
        return record.levelno >= logging.CRITICAL

    logger = logging.getLogger(NAME)
    logger.addFilter(critical)
    try:
        yield
    finally:
        logger.removeFilter(critical)
