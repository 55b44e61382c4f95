"""When an object's status is looked at."""

from __future__ import annotations

import math

from services.ingestor.status.due_queue import DueQueue


def test_what_is_held_and_then_let_go_is_looked_at_when_it_would_have_been() -> None:
    due = DueQueue[str](settle=0.5, overdue=30.0)
    due.hold("a", math.inf)
    due.changed("a", 1.0)
    due.hold("b", math.inf)
    due.enqueue("b", 1.0)
    assert due.ripe(1000.0) == 0
    assert due.take(1000.0, 10) == []
    due.hold("a", 1.2)
    due.hold("b", 3.0)
    assert due.next() == 1.5
    assert due.take(1.5, 10) == ["a"]
    assert due.take(2.9, 10) == []
    assert due.take(3.0, 10) == ["b"]
    assert len(due) == 0
