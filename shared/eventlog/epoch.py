"""Ids of epochs: random, and in the order in which they began.

An epoch begins where the log was found broken. Its sequences lie beyond all that anybody read, so versions grow from
epoch to epoch, unless everything was lost at once, the log and the memory of its writers: then sequences begin at 1
again, and a reader that still holds the old version can only tell by the id that the lower one is the later. So an id
names the moment at which its epoch began, by the clock of who began it, but one after the latest epoch that is known
to have been: clocks differ by minutes, and an edge that took an older epoch for a later one would go back to it. Only
where nothing is left of the epochs before must the clocks be right.
"""

from __future__ import annotations

import os
import time


def new_epoch(seconds: float | None = None, salt: str = "") -> str:
    """An id for an epoch that begins now (`seconds` since 1970, of this machine's clock, unless given)."""
    return f"{int(time.time() if seconds is None else seconds):08x}-{salt or os.urandom(4).hex()}"


def after(epoch: str, latest: str) -> str:
    """This new id, put off by as little as makes it begin later than `latest`, if its clock is behind."""
    began, before = _began(epoch), _began(latest)
    if began is None or before is None or began > before:
        return epoch
    return f"{before + 1:08x}-{epoch.partition('-')[2]}"


def latest_of(*epochs: str) -> str:
    """The one that began last; the first of them where their ids do not say."""
    found = ""
    for epoch in epochs:
        if not found or begins_later(epoch, found):
            found = epoch
    return found


def begins_later(one: str, other: str) -> bool:
    """Whether epoch `one` began after `other`; false if their ids do not say."""
    left, right = _began(one), _began(other)
    return left is not None and right is not None and left > right


def _began(epoch: str) -> int | None:
    seconds, dash, _ = epoch.partition("-")
    try:
        return int(seconds, 16) if dash else None
    except ValueError:
        return None
