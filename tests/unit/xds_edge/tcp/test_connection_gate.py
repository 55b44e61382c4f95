"""Places before and in TLS are bounded, and fair by address."""

from __future__ import annotations

import random

import pytest

from services.xds_edge.tcp import connection_gate as lobby_
from services.xds_edge.tcp.connection_gate import ConnectionCaps, ConnectionGate, GatedConnection, GateRefusal, Phase

CAPS = ConnectionCaps(
    connections=12, per_address=10, waiting=16, unproven=6, new_per_address=1e6, new_per_address_burst=1e6
)
HOSTILE, MEMBER = "10.0.0.66", "10.0.0.1"


class House:
    """A gate whose clock a test moves."""

    def __init__(self, caps: ConnectionCaps = CAPS) -> None:
        self.gate = ConnectionGate(caps)
        self.now = 100.0
        self.displaced: list[GatedConnection] = []

    def arrive(self, address: str) -> GatedConnection | GateRefusal:
        gated, displaced = self.gate.arrive(None, address, self.now)
        self._note(displaced)
        return gated

    def gated(self, address: str) -> GatedConnection:
        gated = self.arrive(address)
        assert isinstance(gated, GatedConnection)
        return gated

    def ready(self, address: str) -> GatedConnection:
        gated = self.gated(address)
        self.gate.begin(gated, self.now)
        return gated

    def admit(self) -> GatedConnection | None:
        gated, displaced = self.gate.admit(self.now)
        self._note(displaced)
        return gated

    def stranger(self, address: str) -> GatedConnection:
        """One that is in TLS."""
        wanted = self.ready(address)
        while (admitted := self.admit()) is not wanted:
            assert admitted is not None
        return wanted

    def member(self, address: str) -> GatedConnection:
        gated = self.stranger(address)
        self.gate.prove(gated)
        return gated

    def _note(self, displaced: GatedConnection | None) -> None:
        if displaced is not None:
            assert displaced.phase is Phase.GONE
            self.displaced.append(displaced)


def test_a_connection_goes_through_and_leaves_nothing() -> None:
    house = House()
    gated = house.member(MEMBER)
    assert (house.gate.waiting, house.gate.unproven, house.gate.proven) == (0, 0, 1)
    house.gate.leave(gated)
    house.gate.leave(gated)
    assert (house.gate.waiting, house.gate.unproven, house.gate.proven) == (0, 0, 0)


def test_an_address_that_waits_with_too_many_is_refused() -> None:
    house = House()
    for _ in range(CAPS.waiting_per_address):
        house.gated(HOSTILE)
    assert house.arrive(HOSTILE) is GateRefusal.ADDRESS
    assert isinstance(house.arrive(MEMBER), GatedConnection)
    assert not house.displaced


def test_an_address_with_too_many_connections_of_any_kind_is_refused() -> None:
    house = House(ConnectionCaps(connections=100, per_address=4, waiting=1000, unproven=100))
    for _ in range(2):
        house.member(HOSTILE)
    house.stranger(HOSTILE)
    house.gated(HOSTILE)
    assert house.arrive(HOSTILE) is GateRefusal.ADDRESS
    assert isinstance(house.arrive(MEMBER), GatedConnection)


def test_when_all_places_to_wait_are_taken_the_address_with_most_gives_one_up() -> None:
    house = House(ConnectionCaps(waiting=32, per_address=1000))
    crowd = [house.gated(f"10.0.0.{60 + number // 3}") for number in range(32)]
    assert house.arrive("10.0.0.70") is GateRefusal.WAITING, "it would hold as many as the others"
    newcomer = house.gated(MEMBER)
    assert newcomer.phase is Phase.SILENT
    assert house.displaced == [crowd[0]]
    assert house.gate.waiting == 32


def test_addresses_take_turns() -> None:
    house = House(ConnectionCaps(unproven=100))
    for _ in range(5):
        house.ready(HOSTILE)
    member = house.ready(MEMBER)
    assert member in {house.admit(), house.admit()}


def test_when_all_strangers_places_are_taken_the_address_with_most_gives_one_up() -> None:
    house = House()
    crowd = [house.stranger(HOSTILE) for _ in range(CAPS.unproven)]
    member = house.ready(MEMBER)
    assert house.admit() is None, "a moment of grace"
    house.now += 0.3
    assert house.admit() is member
    assert house.displaced == [crowd[0]]


def test_one_that_may_have_a_place_does_not_wait_behind_those_that_may_not() -> None:
    house = House()
    for _ in range(CAPS.unproven):
        house.stranger(HOSTILE)
    house.ready(HOSTILE)
    member = house.ready(MEMBER)
    house.now += 1
    assert house.admit() is member


def test_strangers_of_one_address_do_not_drive_each_other_out() -> None:
    house = House()
    for _ in range(CAPS.unproven):
        house.stranger(HOSTILE)
    house.ready(HOSTILE)
    house.now += 10
    assert house.admit() is None
    assert not house.displaced


def test_proven_connections_are_never_displaced() -> None:
    house = House(ConnectionCaps(connections=5, unproven=5))
    for number in range(5):
        house.member(f"10.0.1.{number}")
    house.ready(MEMBER)
    house.now += 60
    assert house.admit() is None
    assert [why for _, why in house.gate.overdue(house.now)] == [GateRefusal.FULL]


def test_when_the_house_is_full_strangers_make_room_for_a_newcomer() -> None:
    house = House(ConnectionCaps(connections=5, unproven=5))
    house.member("10.0.1.1")
    crowd = [house.stranger(HOSTILE) for _ in range(4)]
    member = house.ready(MEMBER)
    house.now += 1
    assert house.admit() is member
    assert house.displaced == [crowd[0]]


def test_an_address_begins_handshakes_at_its_own_pace() -> None:
    house = House(ConnectionCaps(new_per_address=2, new_per_address_burst=2, unproven=100))
    for _ in range(4):
        house.ready(HOSTILE)
    member = house.ready(MEMBER)
    begun = [house.admit() for _ in range(4)]
    assert begun.count(None) == 1
    assert member in begun
    assert house.gate.pause(house.now) == pytest.approx(0.5)
    house.now += 0.5
    assert house.admit() is not None
    assert house.admit() is None


def test_the_silent_and_those_that_waited_too_long_go() -> None:
    house = House(
        ConnectionCaps(hello_within=5, start_within=10, unproven=1, new_per_address=0.001, new_per_address_burst=1)
    )
    first = house.gated(MEMBER)
    house.now += 4
    second = house.gated(MEMBER)
    house.now += 1
    assert house.gate.overdue(house.now) == [(first, GateRefusal.SILENT)]
    house.gate.begin(second, house.now)
    house.now += 9
    assert house.gate.overdue(house.now) == []
    house.now += 1
    assert house.gate.overdue(house.now) == [(second, GateRefusal.LATE)]
    assert house.gate.pause(house.now) is None


def test_addresses_are_not_forgotten_before_their_burst_is_back(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lobby_, "_FORGET_ABOVE", 8)
    house = House(ConnectionCaps(new_per_address=1, new_per_address_burst=2))
    for _ in range(2):
        house.gate.leave(house.stranger(HOSTILE))
    for number in range(50):
        house.gate.leave(house.gated(f"10.1.0.{number}"))
    house.ready(HOSTILE)
    assert house.admit() is None, "its handshakes are spent, though it left"


def test_whatever_happens_the_counts_are_right_and_the_caps_hold() -> None:
    chance = random.Random(3)  # noqa: S311
    caps = ConnectionCaps(
        connections=9, per_address=8, waiting=16, unproven=5, new_per_address=50, new_per_address_burst=5
    )
    house, gated_connections = House(caps), list[GatedConnection]()
    for _ in range(5000):
        house.now += chance.random() * 0.2
        match chance.randrange(6):
            case 0 | 1:
                found = house.arrive(f"10.0.0.{chance.randrange(5)}")
                gated_connections += [found] if isinstance(found, GatedConnection) else []
            case 2:
                for gated in gated_connections:
                    if gated.phase is Phase.SILENT:
                        house.gate.begin(gated, house.now)
            case 3:
                house.admit()
            case 4:
                if gated_connections:
                    house.gate.prove(chance.choice(gated_connections))
            case _:
                if gated_connections:
                    house.gate.leave(chance.choice(gated_connections))
        house.gate.overdue(house.now)
        gated_connections = [gated for gated in gated_connections if gated.phase is not Phase.GONE]
        phases = [gated.phase for gated in gated_connections]
        assert house.gate.waiting == phases.count(Phase.SILENT) + phases.count(Phase.READY) <= caps.waiting
        assert house.gate.unproven == phases.count(Phase.UNPROVEN) <= caps.unproven
        assert house.gate.proven == phases.count(Phase.PROVEN)
        assert house.gate.unproven + house.gate.proven <= caps.connections
        for address in {gated.source.address for gated in gated_connections}:
            assert sum(gated.source.address == address for gated in gated_connections) <= caps.per_address


def test_one_address_can_be_asked_for_alone_and_pays_as_in_its_turn() -> None:
    """A member that comes while a crowd waits need not wait for the crowd."""
    house = House(ConnectionCaps(new_per_address=1.0, new_per_address_burst=1.0))
    for _ in range(5):
        house.ready(HOSTILE)
    wanted = house.ready(MEMBER)
    assert house.gate.admit(house.now, wanted.source) == (wanted, None)
    again = house.ready(MEMBER)
    assert house.gate.admit(house.now, again.source) == (None, None), "its allowance is spent"
    assert again.phase is Phase.READY
