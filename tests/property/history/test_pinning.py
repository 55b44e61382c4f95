"""A pin puts past policy in force and nothing else; without it the newest is in force, as if there had been none."""

from __future__ import annotations

import msgspec
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from services.compiler.core.compiler import Compiler
from services.compiler.core.offline import compile_events
from services.compiler.mesh_state import MeshSettings
from shared.records.events import APPLIED, DELETED, SCHEMA, Event, encode_object
from shared.records.pins import PIN_KIND, PIN_NAME, PINNED_KINDS, Pin, pin_of
from shared.records.snapshot import Snapshot
from tests.property.compiler.worlds import flat, histories
from tests.property.history.worlds import contents
from tests.unit.compiler.objects import CLUSTER

FEW = settings(
    max_examples=20, deadline=None, suppress_health_check=[HealthCheck.too_slow, HealthCheck.filter_too_much]
)


def pin_event(pin: Pin | None) -> Event:
    return Event(
        schema=SCHEMA,
        cluster=CLUSTER,
        kind=PIN_KIND,
        namespace="",
        name=PIN_NAME,
        uid="pin",
        resource_version="1",
        operation=DELETED if pin is None else APPLIED,
        object=None if pin is None else encode_object(pin),
    )


def policy(history: list[Event]) -> list[tuple[int, Event]]:
    newest = {event.key: (sequence, event) for sequence, event in enumerate(history, 1) if event.kind in PINNED_KINDS}
    return [found for found in newest.values() if found[1].operation == APPLIED]


def live(history: list[Event]) -> list[Event]:
    return [event for event in history if event.kind not in PINNED_KINDS]


def incremental(batches: list[list[Event]]) -> Snapshot:
    compiler, snapshot, sequence = Compiler(MeshSettings()), Snapshot(), 0
    for batch in batches:
        for event in batch:
            sequence += 1
            compiler.fold(event, sequence)
        commit = compiler.commit(snapshot)
        if commit is not None:
            snapshot.apply(commit)
        compiler.accept()
    return snapshot


@FEW
@given(histories(), st.data())
def test_under_a_pin_policy_is_that_of_then_and_all_else_of_now(
    batches: list[list[Event]], data: st.DataObject
) -> None:
    then = data.draw(st.integers(0, len(batches)))
    past = policy(flat(batches[:then]))
    between = data.draw(st.integers(then, len(batches)))
    pinned = [*batches[:between], [pin_event(pin_of(1, "", past))], *batches[between:]]
    wanted = compile_events([*live(flat(batches)), *(event for _, event in past)])
    assert contents(incremental(pinned)) == contents(wanted)


@FEW
@given(histories(), st.data())
def test_after_the_pin_it_is_as_if_there_had_been_none(batches: list[list[Event]], data: st.DataObject) -> None:
    """But for objects that cannot be read: the last good form of those was given up with the pin."""
    history = flat(batches)
    past = policy(history[: data.draw(st.integers(0, len(history)))])
    newest = [event for _, event in policy(history)]
    ended = [*batches, [pin_event(pin_of(1, "", past))], [pin_event(None)]]
    wanted = compile_events([*live(history), *newest])
    assert contents(incremental(ended)) == contents(wanted)


def test_a_large_pin_is_packed_and_a_broken_one_changes_nothing() -> None:
    from shared.records.pins import objects_of
    from tests.unit.compiler import objects

    past = [(number, objects.tcp_route("shop", f"r{number}", number)) for number in range(1, 2000)]
    pin = pin_of(7, "why", past)
    assert not pin.objects
    assert len(msgspec.json.encode(pin)) < 100_000
    assert [(at, event.key) for at, event in objects_of(pin)] == [(at, event.key) for at, event in past]
    broken = msgspec.structs.replace(pin_event(pin), object=encode_object(Pin(version=7, packed="AAAA")))
    found = compile_events([*objects.bookstore(), broken])
    assert [one.code for one in found.quarantine] == ["pin/corrupt"]
    assert sorted(found.views) == sorted(compile_events(objects.bookstore()).views)
