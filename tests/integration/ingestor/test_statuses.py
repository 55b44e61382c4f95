"""Two thousand policy objects that change, before real processes and a real log: what their statuses cost."""

from __future__ import annotations

import os

import pytest

from benchmarks import statuses

pytestmark = [pytest.mark.nats, pytest.mark.long, pytest.mark.alone, pytest.mark.timeout(300)]


async def test_statuses_under_churn_cost_a_bounded_rate_and_are_right_soon_afterwards() -> None:
    shared_by = max(1.0, os.getloadavg()[0] / (os.cpu_count() or 1))
    found = await statuses.measure()
    assert found.busiest <= statuses.MOST
    assert found.during <= found.changes, "never more writes than changes"
    assert statuses.OBJECTS <= found.after <= 1.1 * statuses.OBJECTS, "one write tells how far each has come"
    assert found.right_after <= statuses.SOON * shared_by, f"on a machine that {shared_by:.1f} share: {found}"
