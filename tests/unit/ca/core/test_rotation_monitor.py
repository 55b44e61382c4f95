"""The monitor measures for how long a rotation has waited for the same proxies."""

from __future__ import annotations

from services.ca.core.rotation_monitor import RotationMonitor
from services.ca.core.rotation_plan import RotationPlan, RotationStep
from shared.records.certificate_records import TrustBundle


def waiting(*names: str) -> RotationPlan:
    return RotationPlan(TrustBundle("cluster.local", 1, [], []), RotationStep.DISTRIBUTING, waiting=names)


def test_the_wait_grows_while_the_proxies_are_the_same_and_begins_again_with_others() -> None:
    now = 100.0
    monitor = RotationMonitor(clock=lambda: now)
    assert (monitor.plan, monitor.waited()) == (None, 0.0)
    monitor.record(waiting("a"))
    now = 130.0
    monitor.record(waiting("a"))
    assert monitor.waited() == 30.0
    monitor.record(waiting("b"))
    assert monitor.waited() == 0.0
    now = 135.0
    assert monitor.waited() == 5.0
    monitor.record(waiting())
    assert monitor.waited() == 0.0
    now = 90.0
    monitor.record(waiting("b"))
    now = 80.0
    assert monitor.waited() == 0.0, "the clock was set back"
