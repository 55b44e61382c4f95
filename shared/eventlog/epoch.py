"""Ids of epochs: random, and in the order in which they began.

An epoch begins where the log was found broken. Its sequences lie beyond all that anybody read, so versions grow from
epoch to epoch, unless everything was lost at once, the log and the memory of its writers: then sequences begin at 1
again, and a reader that still holds the old version can only tell by the id that the lower one is the later. The order
is by the clocks of those who began them. It is right as long as two epochs are further apart than these clocks, and it
is asked for only after such a loss.
"""

from __future__ import annotations

import os
import time


def new_epoch(seconds: float | None = None, salt: str = "") -> str:
    """An id for an epoch that begins now (`seconds` since 1970, of this machine's clock, unless given)."""
    return f"{int(time.time() if seconds is None else seconds):08x}-{salt or os.urandom(4).hex()}"


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
