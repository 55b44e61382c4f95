"""A CSR counts once, and a pod cannot ask without end."""

from __future__ import annotations

import pytest

from services.ca.core.errors import IssuanceRefusedError
from services.ca.core.replay_guard import BURST, REFILL_SECONDS, REMEMBERED_SECONDS, ReplayGuard


def digest(number: int) -> bytes:
    return number.to_bytes(32, "big")


def test_the_same_request_may_come_again_and_costs_nothing() -> None:
    guard = ReplayGuard()
    for _ in range(3 * BURST):
        guard.admit("request", digest(1), "pod", 0.0)
    assert guard.remembers("request", digest(1))


def test_a_csr_under_another_id_is_a_replay() -> None:
    guard = ReplayGuard()
    guard.admit("request", digest(1), "pod", 0.0)
    with pytest.raises(IssuanceRefusedError) as refused:
        guard.admit("another", digest(1), "pod", REMEMBERED_SECONDS)
    assert (refused.value.code, refused.value.retry_after) == ("csr/replayed", 0)


def test_a_csr_that_was_not_signed_may_come_again() -> None:
    guard = ReplayGuard()
    guard.admit("request", digest(1), "pod", 0.0)
    guard.forget(digest(1))
    guard.admit("another", digest(1), "pod", 0.0)


def test_a_pod_that_asks_too_often_waits_and_others_do_not() -> None:
    guard = ReplayGuard()
    for number in range(BURST):
        guard.admit(f"r{number}", digest(number), "pod", 0.0)
    with pytest.raises(IssuanceRefusedError) as refused:
        guard.admit("more", digest(1000), "pod", 0.0)
    assert refused.value.code == "csr/rate"
    assert 0 < refused.value.retry_after <= REFILL_SECONDS
    guard.admit("other", digest(1001), "other pod", 0.0)
    guard.admit("more", digest(1000), "pod", refused.value.retry_after)


def test_a_clock_that_jumps_back_grants_nothing_and_breaks_nothing() -> None:
    guard = ReplayGuard()
    for number in range(BURST):
        guard.admit(f"r{number}", digest(number), "pod", 1000.0)
    with pytest.raises(IssuanceRefusedError):
        guard.admit("more", digest(1000), "pod", 0.0)
    guard.admit("more", digest(1000), "pod", REFILL_SECONDS)


def test_memory_is_bounded_by_time() -> None:
    guard = ReplayGuard()
    for number in range(5000):
        guard.admit(f"r{number}", digest(number), f"pod-{number}", float(number))
    requests, pods = guard.size
    assert requests <= REMEMBERED_SECONDS + 2
    assert pods <= BURST * REFILL_SECONDS + 2
