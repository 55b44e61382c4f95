"""The specification of one stream: how long it keeps records, what it refuses, how it dedupes."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Literal

import msgspec

from shared.eventlog.protocol import Record

Retention = Literal["limits", "work_queue"]

READ_ONLY_USERS = frozenset({"xds-edge", "injector", "operator", "reader"})
"""Users that create no stream: services that every pod can reach, and people."""

Judge = Callable[[Record], str]
"""Returns why the content of a record does not belong under its subject; empty if it does."""


def _accept_all(_record: Record) -> str:
    return ""


class StreamSpec(msgspec.Struct, frozen=True):
    """One stream."""

    name: str
    subjects: tuple[str, ...]
    description: str
    retention: Retention = "limits"
    """`work_queue`: a record is gone once a taker is done with it."""
    max_per_subject: int = 0
    """Newest records kept of each subject; 0: all."""
    max_age: float = 0.0
    """Seconds that a record is kept; 0: for ever."""
    duplicate_window: float = 120.0
    """Seconds in which a message id is remembered."""
    acknowledge_within: float = 5.0
    """Seconds that a taker has for a job before another may have it (work queues only)."""
    replicas: int = 1
    owner: str = ""
    """The user that may change its configuration, trim it if it is `trimmed`, and take jobs off it if it is a queue."""
    trimmed: bool = False
    """Whether its owner deletes records that are older than a checkpoint."""
    chained: tuple[str, ...] = ()
    """Subjects whose records are chained: one without a chain is foreign (`shared.eventlog.foreign`)."""
    chain_tokens: int = 0
    """Tokens of a subject that name its chain, where chains span subjects; 0: each subject is a chain."""
    guests: tuple[str, ...] = ()
    """Chained subjects that others than the writers of the chain may write to."""
    judge: Judge = _accept_all
    """Checks the content of unchained records and of guests' records."""
    fleeting: bool = False
    """Whether its records are worthless once every server has stopped: it may be in memory, as older builds made it."""


def covering(patterns: Sequence[str]) -> Callable[[str], bool]:
    """Return a fast test whether one of these patterns covers a subject."""
    literal = frozenset(one for one in patterns if not {"*", ">"} & set(one.split(".")))
    everything = tuple(one[:-1] for one in patterns if one.endswith(".>") and "*" not in one.split("."))
    others = tuple(one for one in patterns if one not in literal and one[:-1] not in everything)

    def covers(subject: str) -> bool:
        if subject in literal or any(matches(one, subject) for one in others):
            return True
        return bool(everything) and subject.startswith(everything) and subject not in everything

    return covers


def matches(pattern: str, subject: str) -> bool:
    """Whether a NATS subject pattern (`*` is one token, a last `>` is one or more) covers a subject.

    A pattern may stand for the subject too: `a.>` covers `a.*.b`, and so a scope covers a narrower one.
    """
    wanted, given = pattern.split("."), subject.split(".")
    for index, part in enumerate(wanted):
        if part == ">":
            return len(given) > index
        if index >= len(given):
            return False
        if given[index] != part and (part != "*" or given[index] == ">"):
            return False
    return len(wanted) == len(given)
