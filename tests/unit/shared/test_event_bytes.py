from __future__ import annotations

import msgspec
import pytest

from shared.records import events
from shared.records.events import Event, EventOrigin


@pytest.mark.parametrize("origin", [None, EventOrigin(), EventOrigin(source="list", manager="kubectl")])
@pytest.mark.parametrize("operation", [events.APPLIED, events.DELETED])
def test_an_event_that_was_read_is_written_with_the_same_bytes(origin: EventOrigin | None, operation: str) -> None:
    event = Event(
        schema=events.SCHEMA,
        cluster="c",
        kind="Service",
        namespace="a.b",
        name="n",
        uid="u",
        resource_version="7",
        operation=events.APPLIED if operation == events.APPLIED else events.DELETED,
        object=events.encode_object({"metadata": {"name": "n"}}) if operation == events.APPLIED else None,
    )
    written = events.encode(event if origin is None else msgspec.structs.replace(event, origin=origin))
    assert events.encode(events.decode(written)) == written


_GOOD = (
    b'{"schema":1,"cluster":"c","kind":"Pod","namespace":"n","name":"p","uid":"u","resource_version":"1",'
    b'"operation":"applied","object":{}}'
)


@pytest.mark.parametrize(
    "payload",
    [
        b"",
        b"null",
        b"[]",
        _GOOD[:-1],
        _GOOD[: len(_GOOD) // 2],
        _GOOD.replace(b'"c"', b'"\xff\xfe"'),
        _GOOD.replace(b'"c"', b'"\\ud800"'),
        _GOOD.replace(b'"c"', b"NaN"),
        _GOOD.replace(b"{}", b"NaN"),
        _GOOD.replace(b"{}", b"[" * 100_000),
        _GOOD.replace(b"{}", b'{"a":' * 100_000 + b"1" + b"}" * 100_000),
        _GOOD.replace(b'"applied"', b'"invented"'),
        _GOOD + b"x" * 1_000_000,
        b"\0" * 1_000_000,
    ],
    ids=lambda payload: f"{len(payload)} bytes {payload[:20]!r}",
)
def test_bytes_that_are_no_event_are_corrupt_and_nothing_else(payload: bytes) -> None:
    """Truncated, not UTF-8, nested too deeply, no JSON, huge: one error, which readers know how to pass over."""
    assert events.decode(_GOOD).name == "p"
    with pytest.raises(events.CorruptEventError):
        events.decode(payload)
