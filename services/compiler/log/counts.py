"""Counts of one publisher process, for its metrics."""

from __future__ import annotations

import msgspec


class PublisherCounts(msgspec.Struct):
    """What this process did since it started."""

    events: int = 0
    """Events folded, each time they are folded."""
    skipped: int = 0
    """Events that could not be decoded."""
    commits: int = 0
    bytes: int = 0
    """Bytes of those commits."""
    resources: int = 0
    """Resources in those commits."""
    quarantined: int = 0
    """Objects left out of the newest commit."""
    failures: int = 0
    """Queries that fail now because of a bug of the compiler."""
    keyframes: int = 0
    refused: int = 0
    """Commits that the log rejected because another compiler had published."""
    history_from: int = 0
    """Oldest version that can still be rebuilt; 0 until the first trim."""
