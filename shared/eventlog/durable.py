"""Whether a stream can lose what it acknowledged: the rules by which a durable service refuses to start.

Checked are the fields that a client can read (`$JS.API.STREAM.INFO`, NATS ADR-1): copies, storage, what happens when
the stream is full, age, and whether the server acknowledges before it writes (`persist_mode`, NATS 2.12). Only the
system account and the monitoring port show the server's `sync_interval`, so no service can check it: the configuration
that Meshlog renders sets `always`, and operators of an own NATS have to.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from shared.errors import BadInputError
from shared.eventlog.stream_spec import StreamSpec

COPIES = 3
"""Copies of each stream at least: one server may be lost for good, and two still agree."""
NO_CLUSTER = 10074
"""The server's error number for more than one copy on a server that is alone."""


def weaknesses(spec: StreamSpec, config: Mapping[str, Any], *, whole: bool) -> list[str]:
    """Return how a stream of this configuration can lose acknowledged records; empty if it cannot.

    `whole`: whether every record of it must stay until it is trimmed, as of the events. What is `fleeting` may be in
    memory.
    """
    found: list[str] = []
    copies = int(config.get("num_replicas", 1))
    if copies < COPIES:
        found.append(f"has {copies} of {COPIES} copies")
    if not spec.fleeting and config.get("storage") != "file":
        found.append("is kept in memory")
    if config.get("persist_mode") == "async":
        found.append("is acknowledged before it is written")
    if whole and config.get("discard") != "new":
        found.append("drops its oldest records when it is full")
    if whole and int(config.get("max_age", 0)) > 0:
        found.append("drops records by age")
    return found


def refuse(stream: str, found: list[str]) -> None:
    """Raise `BadInputError` if anything was found."""
    if found:
        raise BadInputError(
            "log/not-durable",
            f"can lose acknowledged data: it {', '.join(found)}; change the stream, or start without --durable",
            about=f"stream {stream}",
        )


def refuse_copies(replicas: int) -> None:
    """Raise `BadInputError` if streams would be made with too few copies."""
    if replicas < COPIES:
        raise BadInputError(
            "settings/durable",
            f"needs --replicas {COPIES}: with {replicas} a lost disk is lost data",
            about="--durable",
        )
