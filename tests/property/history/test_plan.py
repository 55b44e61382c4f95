"""What a plan predicts is what applying does, and a call that it calls newly allowed was not and is."""

from __future__ import annotations

import asyncio

import msgspec
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st

from cli.history.planning import plan
from cli.history.reachability import sample
from cli.history.timeline import Timeline
from shared.events import Event
from tests.property.compiler.worlds import applied, flat, histories
from tests.property.history.worlds import contents, recorded

FEW = settings(
    max_examples=15, deadline=None, suppress_health_check=[HealthCheck.too_slow, HealthCheck.filter_too_much]
)


def manifest(event: Event) -> dict[str, object]:
    assert event.object is not None
    body = msgspec.json.decode(event.object, type=dict[str, object])
    return {"apiVersion": event.api_version, "kind": event.kind, **body}


@FEW
@given(histories(), applied, st.booleans())
def test_what_is_predicted_is_what_applying_does(batches: list[list[Event]], event: Event, deletes: bool) -> None:  # noqa: FBT001
    async def claim() -> None:
        history = flat(batches)
        assume(history)
        there = {one.key: one for one in history if one.operation == "applied"}
        before = Timeline(await recorded(batches, together=[3]))
        head = len(history)
        newest = {one.key: one for one in history}
        if deletes:
            alive = [key for key, one in newest.items() if one.operation == "applied"]
            assume(alive)
            key = alive[0]
            found = await plan(before, head, [], [(key.kind, key.namespace, key.name)])
            change = msgspec.structs.replace(there[key], operation="deleted", object=None)
        else:
            if event.key in newest and newest[event.key].operation == "applied":
                # The API server would keep identity and age of what is there; the random world does not.
                old, new = (msgspec.json.decode(one.object or b"{}") for one in (newest[event.key], event))
                # Nor would it take what is no object at all.
                assume(isinstance(old, dict) and isinstance(new, dict) and "metadata" in old and "metadata" in new)
                assume(all(old["metadata"].get(k) == new["metadata"].get(k) for k in ("uid", "creationTimestamp")))
                assume(event.kind != "Service")
            else:
                assume(event.kind in {"TrafficTarget", "HTTPRouteGroup", "TCPRoute", "EndpointSlice", "Namespace"})
            try:
                found = await plan(before, head, [manifest(event)], [])
            except Exception as error:
                assume("cannot be read" not in str(error))
                raise
            change = event
        after = Timeline(await recorded([*batches, [change]], together=[2]))
        published = await after.snapshot(await after.head())
        was = await before.snapshot(await before.head())
        assume(contents(found.before) == contents(was))  # no last good form that only history knows
        assert contents(found.after)[1:] == contents(published)[1:]  # type: ignore[index]
        assert found.nothing == (contents(was)[1:] == contents(published)[1:])  # type: ignore[index]

    asyncio.run(claim())


def test_a_sample_of_a_pattern_matches_it() -> None:
    import re

    for pattern in ("/books-bought", "/buy-a-book.*", "/a(b|c)+d?", "/[a-z]{2,4}/\\d+", "^/x$", "/.*", "[^/]x", ""):
        text = sample(pattern)
        assert text is None or re.fullmatch(pattern, text), pattern
    assert sample("(unbalanced") is None
