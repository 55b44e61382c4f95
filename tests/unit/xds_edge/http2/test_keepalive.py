"""When a connection is probed, given up, and asked to move on."""

from __future__ import annotations

import pytest

from services.xds_edge.http2.keepalive import ConnectionAction, ConnectionLifetime, Http2Limits

LIMITS = Http2Limits(keepalive=30, keepalive_timeout=10, max_connection_age=1000)


def lifetime(*, proven: bool = True, chance: float = 0.5) -> ConnectionLifetime:
    made = ConnectionLifetime(LIMITS, 100.0, chance=chance)
    if proven:
        made.prove()
        made.use()
    return made


def test_one_that_speaks_and_has_a_call_is_left_alone() -> None:
    connection = lifetime()
    for now in range(110, 1090, 20):
        connection.heard = now
        assert connection.due > now
        assert connection.look(now + 19) is ConnectionAction.NONE


def test_a_silent_one_is_probed_once_and_given_up_when_it_does_not_answer() -> None:
    connection = lifetime()
    assert connection.due == 130
    assert connection.look(130) is ConnectionAction.PROBE
    assert connection.due == 140
    assert connection.look(139) is ConnectionAction.NONE
    assert connection.look(140) is ConnectionAction.ABORT


def test_an_answer_in_time_counts_although_the_look_is_late() -> None:
    connection = lifetime()
    assert connection.look(130) is ConnectionAction.PROBE
    connection.heard = 131
    assert connection.look(145) is ConnectionAction.NONE
    assert connection.due == 161
    assert connection.look(161) is ConnectionAction.PROBE


def test_one_that_proves_nothing_is_closed_however_much_it_says() -> None:
    connection = lifetime(proven=False)
    for now in range(101, 110):
        connection.heard = now
        assert connection.due == 110
        assert connection.look(now) is ConnectionAction.NONE
    assert connection.look(110) is ConnectionAction.UNPROVEN


def test_one_without_a_call_is_asked_to_leave_however_much_it_says() -> None:
    connection = lifetime()
    connection.rest(200)
    for now in range(201, 260, 5):
        connection.heard = now
        assert connection.look(now) is ConnectionAction.NONE
    connection.heard = 259
    assert connection.due == 260
    assert connection.look(260) is ConnectionAction.IDLE


def test_calls_that_are_refused_are_no_use_of_a_connection() -> None:
    connection = lifetime()
    connection.rest(200)
    for now in range(201, 260):
        connection.heard = now
        connection.rest(now)
    assert connection.look(260) is ConnectionAction.IDLE


def test_a_call_that_was_taken_is_use() -> None:
    connection = lifetime()
    connection.rest(200)
    connection.use()
    connection.heard = 250
    connection.rest(250)
    assert connection.look(261) is ConnectionAction.NONE


@pytest.mark.parametrize(("chance", "at"), [(0.0, 1000), (0.5, 1100), (1.0, 1200)])
def test_an_old_one_leaves_once_at_its_age_give_or_take_a_tenth(chance: float, at: float) -> None:
    connection = lifetime(chance=chance)
    connection.heard = at - 5
    assert connection.due == at
    assert connection.look(at - 1) is ConnectionAction.NONE
    assert connection.look(at) is ConnectionAction.LEAVE
    assert connection.look(at) is ConnectionAction.NONE
    assert connection.due == at + 25
