"""Bytes are bounded for each client and for all, and the largest holder is ended first."""

from __future__ import annotations

import random

from services.xds_edge.limits.memory_ledger import ClientMemory, MemoryLedger


class Holder:
    """A call or a stream."""

    def __init__(self) -> None:
        self.ended = 0

    def overflow(self) -> None:
        self.ended += 1


def test_a_client_beyond_its_limit_loses_the_holder_that_went_there() -> None:
    ledger, client = MemoryLedger(each=100, total=1000), ClientMemory()
    small, large = Holder(), Holder()
    ledger.add(client, large, 90)
    ledger.add(client, small, 20)
    assert (small.ended, large.ended) == (1, 0)
    assert ledger.held == client.held == 90


def test_when_all_are_beyond_theirs_the_largest_client_loses_its_largest_holder() -> None:
    ledger = MemoryLedger(each=1000, total=1000)
    hostile, member = ClientMemory(), ClientMemory()
    first, second, mine = Holder(), Holder(), Holder()
    ledger.add(hostile, first, 600)
    ledger.add(hostile, second, 300)
    ledger.add(member, mine, 200)
    assert (first.ended, second.ended, mine.ended) == (1, 0, 0)
    assert ledger.held == 500
    assert ledger.overflows == 1


def test_what_is_let_go_of_makes_room() -> None:
    ledger, client = MemoryLedger(each=100, total=100), ClientMemory()
    for _ in range(50):
        one = Holder()
        ledger.add(client, one, 90)
        ledger.add(client, one, -40)
        ledger.drop(client, one)
        ledger.drop(client, one)
        assert not one.ended
    assert ledger.held == client.held == 0


def test_the_books_are_right_after_anything() -> None:
    chance = random.Random(7)  # noqa: S311
    ledger = MemoryLedger(each=300, total=700)
    clients = [ClientMemory() for _ in range(4)]
    holders = [[Holder() for _ in range(5)] for _ in clients]
    for _ in range(3000):
        number = chance.randrange(4)
        client, holder = clients[number], chance.choice(holders[number])
        if chance.random() < 0.2:
            ledger.drop(client, holder)
        else:
            held = client.holders.get(holder, 0)
            ledger.add(client, holder, chance.randrange(-held, 120))
        assert ledger.held == sum(one.held for one in clients) <= 700
        assert all(one.held == sum(one.holders.values()) <= 300 for one in clients)
