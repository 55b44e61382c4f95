"""Places before and in TLS are bounded, and fair by address."""

from __future__ import annotations

import random

import pytest

from services.xds_edge.tcp import connection_gate as lobby_
from services.xds_edge.tcp.connection_gate import Caps, Guest, Lobby, Phase, Refusal

CAPS = Caps(connections=12, per_address=10, waiting=16, unproven=6, new_per_address=1e6, new_per_address_burst=1e6)
HOSTILE, MEMBER = "10.0.0.66", "10.0.0.1"


class House:
    """A lobby whose clock a test moves."""

    def __init__(self, caps: Caps = CAPS) -> None:
        self.lobby = Lobby(caps)
        self.now = 100.0
        self.displaced: list[Guest] = []

    def arrive(self, address: str) -> Guest | Refusal:
        guest, displaced = self.lobby.arrive(None, address, self.now)
        self._note(displaced)
        return guest

    def guest(self, address: str) -> Guest:
        guest = self.arrive(address)
        assert isinstance(guest, Guest)
        return guest

    def ready(self, address: str) -> Guest:
        guest = self.guest(address)
        self.lobby.begin(guest, self.now)
        return guest

    def admit(self) -> Guest | None:
        guest, displaced = self.lobby.admit(self.now)
        self._note(displaced)
        return guest

    def stranger(self, address: str) -> Guest:
        """One that is in TLS."""
        wanted = self.ready(address)
        while (admitted := self.admit()) is not wanted:
            assert admitted is not None
        return wanted

    def member(self, address: str) -> Guest:
        guest = self.stranger(address)
        self.lobby.prove(guest)
        return guest

    def _note(self, displaced: Guest | None) -> None:
        if displaced is not None:
            assert displaced.phase is Phase.GONE
            self.displaced.append(displaced)


def test_a_connection_goes_through_and_leaves_nothing() -> None:
    house = House()
    guest = house.member(MEMBER)
    assert (house.lobby.waiting, house.lobby.unproven, house.lobby.proven) == (0, 0, 1)
    house.lobby.leave(guest)
    house.lobby.leave(guest)
    assert (house.lobby.waiting, house.lobby.unproven, house.lobby.proven) == (0, 0, 0)


def test_an_address_that_waits_with_too_many_is_refused() -> None:
    house = House()
    for _ in range(CAPS.waiting_per_address):
        house.guest(HOSTILE)
    assert house.arrive(HOSTILE) is Refusal.ADDRESS
    assert isinstance(house.arrive(MEMBER), Guest)
    assert not house.displaced


def test_an_address_with_too_many_connections_of_any_kind_is_refused() -> None:
    house = House(Caps(connections=100, per_address=4, waiting=1000, unproven=100))
    for _ in range(2):
        house.member(HOSTILE)
    house.stranger(HOSTILE)
    house.guest(HOSTILE)
    assert house.arrive(HOSTILE) is Refusal.ADDRESS
    assert isinstance(house.arrive(MEMBER), Guest)


def test_when_all_places_to_wait_are_taken_the_address_with_most_gives_one_up() -> None:
    house = House(Caps(waiting=32, per_address=1000))
    crowd = [house.guest(f"10.0.0.{60 + number // 3}") for number in range(32)]
    assert house.arrive("10.0.0.70") is Refusal.WAITING, "it would hold as many as the others"
    newcomer = house.guest(MEMBER)
    assert newcomer.phase is Phase.SILENT
    assert house.displaced == [crowd[0]]
    assert house.lobby.waiting == 32


def test_addresses_take_turns() -> None:
    house = House(Caps(unproven=100))
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
    house = House(Caps(connections=5, unproven=5))
    for number in range(5):
        house.member(f"10.0.1.{number}")
    house.ready(MEMBER)
    house.now += 60
    assert house.admit() is None
    assert [why for _, why in house.lobby.overdue(house.now)] == [Refusal.FULL]


def test_when_the_house_is_full_strangers_make_room_for_a_newcomer() -> None:
    house = House(Caps(connections=5, unproven=5))
    house.member("10.0.1.1")
    crowd = [house.stranger(HOSTILE) for _ in range(4)]
    member = house.ready(MEMBER)
    house.now += 1
    assert house.admit() is member
    assert house.displaced == [crowd[0]]


def test_an_address_begins_handshakes_at_its_own_pace() -> None:
    house = House(Caps(new_per_address=2, new_per_address_burst=2, unproven=100))
    for _ in range(4):
        house.ready(HOSTILE)
    member = house.ready(MEMBER)
    begun = [house.admit() for _ in range(4)]
    assert begun.count(None) == 1
    assert member in begun
    assert house.lobby.pause(house.now) == pytest.approx(0.5)
    house.now += 0.5
    assert house.admit() is not None
    assert house.admit() is None


def test_the_silent_and_those_that_waited_too_long_go() -> None:
    house = House(Caps(hello_within=5, start_within=10, unproven=1, new_per_address=0.001, new_per_address_burst=1))
    first = house.guest(MEMBER)
    house.now += 4
    second = house.guest(MEMBER)
    house.now += 1
    assert house.lobby.overdue(house.now) == [(first, Refusal.SILENT)]
    house.lobby.begin(second, house.now)
    house.now += 9
    assert house.lobby.overdue(house.now) == []
    house.now += 1
    assert house.lobby.overdue(house.now) == [(second, Refusal.LATE)]
    assert house.lobby.pause(house.now) is None


def test_addresses_are_not_forgotten_before_their_burst_is_back(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lobby_, "_FORGET_ABOVE", 8)
    house = House(Caps(new_per_address=1, new_per_address_burst=2))
    for _ in range(2):
        house.lobby.leave(house.stranger(HOSTILE))
    for number in range(50):
        house.lobby.leave(house.guest(f"10.1.0.{number}"))
    house.ready(HOSTILE)
    assert house.admit() is None, "its handshakes are spent, though it left"


def test_whatever_happens_the_counts_are_right_and_the_caps_hold() -> None:
    chance = random.Random(3)  # noqa: S311
    caps = Caps(connections=9, per_address=8, waiting=16, unproven=5, new_per_address=50, new_per_address_burst=5)
    house, guests = House(caps), list[Guest]()
    for _ in range(5000):
        house.now += chance.random() * 0.2
        match chance.randrange(6):
            case 0 | 1:
                found = house.arrive(f"10.0.0.{chance.randrange(5)}")
                guests += [found] if isinstance(found, Guest) else []
            case 2:
                for guest in guests:
                    if guest.phase is Phase.SILENT:
                        house.lobby.begin(guest, house.now)
            case 3:
                house.admit()
            case 4:
                if guests:
                    house.lobby.prove(chance.choice(guests))
            case _:
                if guests:
                    house.lobby.leave(chance.choice(guests))
        house.lobby.overdue(house.now)
        guests = [guest for guest in guests if guest.phase is not Phase.GONE]
        phases = [guest.phase for guest in guests]
        assert house.lobby.waiting == phases.count(Phase.SILENT) + phases.count(Phase.READY) <= caps.waiting
        assert house.lobby.unproven == phases.count(Phase.UNPROVEN) <= caps.unproven
        assert house.lobby.proven == phases.count(Phase.PROVEN)
        assert house.lobby.unproven + house.lobby.proven <= caps.connections
        for address in {guest.source.address for guest in guests}:
            assert sum(guest.source.address == address for guest in guests) <= caps.per_address


def test_one_address_can_be_asked_for_alone_and_pays_as_in_its_turn() -> None:
    """A member that comes while a crowd waits need not wait for the crowd."""
    house = House(Caps(new_per_address=1.0, new_per_address_burst=1.0))
    for _ in range(5):
        house.ready(HOSTILE)
    wanted = house.ready(MEMBER)
    assert house.lobby.admit(house.now, wanted.source) == (wanted, None)
    again = house.ready(MEMBER)
    assert house.lobby.admit(house.now, again.source) == (None, None), "its allowance is spent"
    assert again.phase is Phase.READY
