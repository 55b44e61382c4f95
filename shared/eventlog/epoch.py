"""Ids of epochs: random, and in the order in which they began.

An epoch begins where the log was found broken. Its sequences are above all that were ever read, so versions grow from
epoch to epoch. The exception is the loss of the log and of its writers' memory at once: sequences begin at 1 again, and
only the id shows a reader with the old version that the lower version is the later one. Therefore an id holds the
moment at which its epoch began, by the clock of its writer, but at least one second after the latest known epoch:
clocks differ by minutes, and an edge that mistook an older epoch for a later one would return to it. Clocks have to be
right only if nothing is left of earlier epochs.
"""

from __future__ import annotations

import os
import time


def new_epoch(seconds: float | None = None, salt: str = "") -> str:
    """Return an id for an epoch that begins now, or `seconds` after 1970."""
    return f"{int(time.time() if seconds is None else seconds):08x}-{salt or os.urandom(4).hex()}"


def after(epoch: str, latest: str) -> str:
    """Return this new id, moved to one second after `latest` if the clock that made it is behind."""
    began, before = _began(epoch), _began(latest)
    if began is None or before is None or began > before:
        return epoch
    return f"{before + 1:08x}-{epoch.partition('-')[2]}"


def latest_of(*epochs: str) -> str:
    """Return the epoch that began last; the first of them if their ids hold no time."""
    found = ""
    for epoch in epochs:
        if not found or begins_later(epoch, found):
            found = epoch
    return found


def begins_later(one: str, other: str) -> bool:
    """Whether epoch `one` began after `other`; false if their ids hold no time."""
    left, right = _began(one), _began(other)
    return left is not None and right is not None and left > right


def _began(epoch: str) -> int | None:
    seconds, dash, _ = epoch.partition("-")
    try:
        return int(seconds, 16) if dash else None
    except ValueError:
        return None
