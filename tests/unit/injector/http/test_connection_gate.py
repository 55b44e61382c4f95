"""Connections are shared fairly among sources: one can use all places and keeps no other out."""

from __future__ import annotations

from services.injector.http.connection_gate import ConnectionGate, ConnectionLimits, OpenConnection


def filled(gate: ConnectionGate, source: str, count: int, *, busy: bool = False) -> list[OpenConnection]:
    """So many connections of a source."""
    made: list[OpenConnection] = []
    for _ in range(count):
        visit, leaving = gate.enter(source, lambda: None)
        assert visit is not None
        assert leaving is None
        visit.busy = busy
        made.append(visit)
    return made


def test_a_source_may_open_its_share_and_its_oldest_idle_connection_gives_way_to_more() -> None:
    gate = ConnectionGate(ConnectionLimits(connections=10, per_source=3))
    held = filled(gate, "a", 3)
    held[0].busy = True
    visit, leaving = gate.enter("a", lambda: None)
    assert visit is not None
    assert leaving is held[1]
    assert gate.open == 3


def test_a_source_whose_connections_are_all_busy_gets_no_more() -> None:
    gate = ConnectionGate(ConnectionLimits(connections=10, per_source=3))
    filled(gate, "a", 3, busy=True)
    assert gate.enter("a", lambda: None) == (None, None)
    assert gate.enter("b", lambda: None)[0] is not None


def test_when_all_places_are_taken_the_largest_source_gives_one_up() -> None:
    gate = ConnectionGate(ConnectionLimits(connections=6, per_source=6))
    crowd = filled(gate, "a", 4, busy=True)
    small = filled(gate, "b", 2)
    visit, leaving = gate.enter("c", lambda: None)
    assert visit is not None
    assert leaving is crowd[0], "even if it is busy"
    crowd[1].busy = False
    _, leaving = gate.enter("c", lambda: None)
    assert leaving is crowd[1], "the idle one first"
    assert gate.enter("c", lambda: None) == (None, None), "shares are equal now"
    assert gate.open == 6
    for visit in (*crowd, *small):
        gate.leave(visit)
    assert gate.open == 2


def test_many_sources_keep_a_new_one_out_only_if_each_has_a_single_connection() -> None:
    gate = ConnectionGate(ConnectionLimits(connections=100, per_source=50))
    for number in range(50):
        filled(gate, f"s{number}", 2)
    assert gate.enter("new", lambda: None)[0] is not None


def test_a_connection_that_has_left_counts_once() -> None:
    gate = ConnectionGate(ConnectionLimits(connections=2, per_source=2))
    (visit,) = filled(gate, "a", 1)
    gate.leave(visit)
    gate.leave(visit)
    assert gate.open == 0
