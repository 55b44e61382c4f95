"""Which streams a durable service refuses, and that what Meshlog itself makes is not among them."""

from __future__ import annotations

from typing import Any

import pytest

from shared.errors import BadInputError
from shared.eventlog.durable import refuse, refuse_copies, weaknesses
from shared.eventlog.jetstream.stream_api import stream_config
from shared.records.subjects import Streams
from shared.service.settings import CommonSettings
from shared.streams.jetstream import JetStreamLogs
from shared.streams.specs import StreamSettings, specs

STREAMS = Streams()
SPECS = specs(STREAMS, StreamSettings(replicas=3))


@pytest.mark.parametrize("name", SPECS)
def test_what_meshlog_makes_with_three_copies_is_durable(name: str) -> None:
    assert weaknesses(SPECS[name], stream_config(SPECS[name]), whole=name == STREAMS.events) == []


@pytest.mark.parametrize(
    ("change", "weakness"),
    [
        ({"num_replicas": 1}, "has 1 of 3 copies"),
        ({"num_replicas": 2}, "has 2 of 3 copies"),
        ({"storage": "memory"}, "is kept in memory"),
        ({"persist_mode": "async"}, "is acknowledged before it is written"),
        ({"discard": "old"}, "drops its oldest records when it is full"),
        ({"max_age": 1}, "drops records by age"),
    ],
)
def test_each_way_to_lose_events_is_found(change: dict[str, Any], weakness: str) -> None:
    spec = SPECS[STREAMS.events]
    assert weaknesses(spec, {**stream_config(spec), **change}, whole=True) == [weakness]


def test_more_copies_and_a_limit_by_bytes_are_fine() -> None:
    spec = SPECS[STREAMS.events]
    assert weaknesses(spec, {**stream_config(spec), "num_replicas": 5, "max_bytes": 1 << 30}, whole=True) == []


def test_a_stream_that_forgets_by_design_may_and_leases_of_an_older_build_may_be_in_memory() -> None:
    for name in (STREAMS.status, STREAMS.leases):
        assert weaknesses(SPECS[name], {**stream_config(SPECS[name]), "discard": "old"}, whole=False) == []
    leases = SPECS[STREAMS.leases]
    assert weaknesses(leases, {**stream_config(leases), "storage": "memory"}, whole=False) == []


def test_the_refusal_is_one_sentence_that_names_everything() -> None:
    refuse("MESH_EVENTS", [])
    with pytest.raises(BadInputError) as refused:
        refuse("MESH_EVENTS", ["has 1 of 3 copies", "is kept in memory"])
    assert str(refused.value) == (
        "stream MESH_EVENTS: can lose acknowledged data: it has 1 of 3 copies, is kept in memory; "
        "change the stream, or start without --durable"
    )


def test_durable_settings_with_one_copy_contradict_themselves() -> None:
    refuse_copies(3)
    with pytest.raises(BadInputError, match="--durable: needs --replicas 3"):
        JetStreamLogs.from_settings(CommonSettings(durable=True), name="test")
