"""Times for people, from numbers that others wrote: one that no calendar has is shown as the number that it is."""

from __future__ import annotations

from datetime import UTC, datetime


def moment(seconds: float) -> datetime | None:
    """Seconds since 1970 as a time in UTC; none if no calendar has it."""
    try:
        return datetime.fromtimestamp(seconds, UTC)
    except (ValueError, OverflowError, OSError):
        return None


def timestamp(seconds: float) -> str:
    """RFC 3339, to the second."""
    found = moment(seconds)
    return found.strftime("%Y-%m-%dT%H:%M:%SZ") if found else f"{seconds} (no time)"


def clock(nanoseconds: int) -> str:
    """A time for people: UTC, to the millisecond."""
    found = moment(nanoseconds / 1e9)
    if found is None:
        return f"{nanoseconds} ns (no time)"
    return found.strftime("%Y-%m-%d %H:%M:%S.") + f"{found.microsecond // 1000:03d}"
