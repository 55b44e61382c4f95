from __future__ import annotations

import msgspec
import pytest

from shared import events
from shared.events import Event, Origin


@pytest.mark.parametrize("origin", [None, Origin(), Origin(source="list", manager="kubectl")])
@pytest.mark.parametrize("operation", [events.APPLIED, events.DELETED])
def test_an_event_that_was_read_is_written_with_the_same_bytes(origin: Origin | None, operation: str) -> None:
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
