"""A pin is an operator's own word: what it takes to read one is bounded, whatever it claims to hold."""

from __future__ import annotations

import base64
import tracemalloc
import zlib

import msgspec
import pytest

from shared.errors import BadInputError
from shared.records import events, pins
from shared.records.events import Event
from shared.records.pins import Pin, in_force_by, objects_of, pin_of


def target(name: str = "t", kind: str = "TrafficTarget") -> Event:
    return Event(1, "c1", kind, "shop", name, "u", "1", "applied", object=msgspec.Raw(b'{"spec":{}}'))


def packed(text: bytes) -> Pin:
    return Pin(version=1, packed=base64.b64encode(zlib.compress(text)).decode())


def test_what_was_pinned_is_read_back_few_or_many() -> None:
    for count in (1, 2000):
        past = [(number, target(f"t{number}")) for number in range(count)]
        assert objects_of(pin_of(7, "why", past)) == past


@pytest.mark.parametrize("text", [b"0" * (96 << 20), b"[" + b"[1,0]," * 2_500_000 + b"[1,0]]"])
def test_a_bomb_takes_little_memory_to_be_refused(text: bytes) -> None:
    pin = packed(text)
    del text
    tracemalloc.start()
    try:
        with pytest.raises(events.CorruptEventError):
            objects_of(pin)
        assert tracemalloc.get_traced_memory()[1] < 48 << 20
    finally:
        tracemalloc.stop()


def test_too_many_objects_are_neither_pinned_nor_read(monkeypatch: pytest.MonkeyPatch) -> None:
    past = [(number, target(f"t{number}")) for number in range(11)]
    pin = pin_of(7, "why", past)
    monkeypatch.setattr(pins, "MAX_OBJECTS", 10)
    with pytest.raises(events.CorruptEventError, match="holds 11 objects"):
        objects_of(pin)
    with pytest.raises(BadInputError, match="at most 10 objects"):
        pin_of(7, "why", past)


def test_a_pin_puts_policy_of_its_own_cluster_in_force_and_nothing_else() -> None:
    others = [
        msgspec.structs.replace(target(), cluster="c2"),
        target(kind="Pod"),
        target(kind="TokenIssuer"),
        msgspec.structs.replace(target(), operation="deleted", object=None),
    ]
    body = events.encode_object(pin_of(7, "", [(1, target()), *((2, other) for other in others)]))
    pin = Event(1, "c1", "Pin", "", "mesh", "u", "1", "applied", object=body)
    assert in_force_by(pin) == [(1, target())]
