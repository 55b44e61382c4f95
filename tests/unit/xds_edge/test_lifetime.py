"""When a connection is probed, given up, and asked to move on."""

from __future__ import annotations

import pytest

from services.xds_edge.lifetime import Duty, Lifetime, Limits

LIMITS = Limits(keepalive=30, keepalive_timeout=10, max_connection_age=1000)


def lifetime(*, used: bool = True, chance: float = 0.5) -> Lifetime:
    made = Lifetime(LIMITS, 100.0, chance=chance)
    made.used = used
    return made


def test_whoever_speaks_is_left_alone() -> None:
    connection = lifetime()
    for now in range(110, 1090, 20):
        connection.heard = now
        assert connection.due > now
        assert connection.look(now + 19) is Duty.NONE


def test_a_silent_one_is_probed_once_and_given_up_when_it_does_not_answer() -> None:
    connection = lifetime()
    assert connection.due == 130
    assert connection.look(130) is Duty.PROBE
    assert connection.due == 140
    assert connection.look(139) is Duty.NONE
    assert connection.look(140) is Duty.ABORT


def test_an_answer_in_time_counts_although_the_look_is_late() -> None:
    connection = lifetime()
    assert connection.look(130) is Duty.PROBE
    connection.heard = 131
    assert connection.look(145) is Duty.NONE
    assert connection.due == 161
    assert connection.look(161) is Duty.PROBE


def test_one_that_made_no_call_is_not_even_probed() -> None:
    assert lifetime(used=False).look(130) is Duty.CLOSE


@pytest.mark.parametrize(("chance", "at"), [(0.0, 1000), (0.5, 1100), (1.0, 1200)])
def test_an_old_one_leaves_once_at_its_age_give_or_take_a_tenth(chance: float, at: float) -> None:
    connection = lifetime(chance=chance)
    connection.heard = at - 5
    assert connection.due == at
    assert connection.look(at - 1) is Duty.NONE
    assert connection.look(at) is Duty.LEAVE
    assert connection.look(at) is Duty.NONE
    assert connection.due == at + 25
