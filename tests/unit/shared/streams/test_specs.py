"""Which subjects a pattern covers, and that the streams of a mesh cover its subjects."""

from __future__ import annotations

import pytest

from shared.eventlog.stream_spec import matches
from shared.records.subjects import Streams
from shared.streams.specs import specs


@pytest.mark.parametrize(
    ("pattern", "subject", "covers"),
    [
        (">", "a.b", True),
        ("a.>", "a.b.c", True),
        ("a.>", "a", False),
        ("a.*", "a.b", True),
        ("a.*", "a.b.c", False),
        ("a.*.c", "a.b.c", True),
        ("a.b", "a.b", True),
        ("a.b", "a.bc", False),
        ("a.b", "a.b.c", False),
        ("a.>", "a.*.c", True),
        ("a.*", "a.>", False),
    ],
)
def test_patterns_cover_subjects_as_on_the_server(pattern: str, subject: str, covers: bool) -> None:  # noqa: FBT001
    assert matches(pattern, subject) is covers


def test_each_subject_of_a_mesh_is_in_exactly_one_stream() -> None:
    streams = Streams(prefix="m1")
    every = {
        streams.events: streams.event_subject("c", "Pod", "", "a.b"),
        streams.snapshots: streams.snapshot_subject,
        streams.keyframes: streams.keyframe_subject,
        streams.csrs: streams.csr_subject("edge"),
        streams.certs: streams.issued_subject("edge", "1"),
        streams.status: streams.status_subject("c", "n", "p"),
    }
    for name, subject in every.items():
        holding = [spec.name for spec in specs(streams).values() if any(matches(p, subject) for p in spec.subjects)]
        assert holding == [name]


def test_events_never_age() -> None:
    streams = Streams()
    assert specs(streams)[streams.events].max_age == 0
