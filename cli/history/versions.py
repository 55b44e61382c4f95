"""Parses the versions of arguments: a number, `HEAD`, `HEAD~3`, `@2026-11-20T03:12`, `@-10m`."""

from __future__ import annotations

import re
import time
from collections.abc import Callable
from datetime import UTC, datetime

from cli.history.head_offset import version_back
from cli.history.timeline import Timeline
from shared.errors import BadInputError
from shared.timing.duration import parse_duration

TEACH = "a number, HEAD, HEAD~3, @2026-11-20T03:12 (UTC) or @-10m"

_NUMBER = re.compile(r"[0-9]{1,18}$")
_HEAD = re.compile(r"HEAD(?:~([0-9]{1,9}))?$")


def parse_moment(text: str, *, now: Callable[[], int] = time.time_ns) -> int:
    """Return a time in nanoseconds since 1970, from RFC 3339 (UTC unless it has an offset), or `-10m` before now.

    Raises `BadInputError`.
    """
    try:
        if text.startswith("-"):
            return now() - int(parse_duration(text[1:]) * 1e9)
        moment = datetime.fromisoformat(text)
    except ValueError as error:
        raise BadInputError(
            "history/time", "is no time: 2026-11-20T03:12 or -10m (h, m and s are understood)", about=repr(text)
        ) from error
    return int((moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp() * 1e9)


async def resolve(timeline: Timeline, text: str) -> int:
    """Return the published version that `text` names. Raises `BadInputError` if it names none."""
    head = _HEAD.match(text)
    if head:
        steps = int(head.group(1) or 0)
        return await (version_back(timeline, steps) if steps else timeline.head())
    if text.startswith("@"):
        return await timeline.version_at(parse_moment(text[1:]))
    if not _NUMBER.match(text):
        raise BadInputError("history/version", f"is no version: give {TEACH}", about=repr(text))
    newest = await timeline.head()
    if int(text) > newest:
        raise BadInputError("history/version", f"is not published yet: the newest version is {newest}", about=text)
    return await timeline.version_in_force(int(text))
