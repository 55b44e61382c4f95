"""Formats times for people, from untrusted numbers: one outside the calendar is shown as the number."""

from __future__ import annotations

from datetime import UTC, datetime


def moment(seconds: float) -> datetime | None:
    """Seconds since 1970 as a time in UTC; None if it is outside the calendar."""
    try:
        return datetime.fromtimestamp(seconds, UTC)
    except (ValueError, OverflowError, OSError):
        return None


def timestamp(seconds: float) -> str:
    """A time in the format of RFC 3339, to the second."""
    found = moment(seconds)
    return found.strftime("%Y-%m-%dT%H:%M:%SZ") if found else f"{seconds} (no time)"


def clock(nanoseconds: int) -> str:
    """A time for people: UTC, to the millisecond."""
    found = moment(nanoseconds / 1e9)
    if found is None:
        return f"{nanoseconds} ns (no time)"
    return found.strftime("%Y-%m-%d %H:%M:%S.") + f"{found.microsecond // 1000:03d}"
