"""What the workers of an edge remark is remarked by the one that looks after them."""

from __future__ import annotations

from services.xds_edge.workers import remarked


def test_remarks_of_workers_say_whose_they_are() -> None:
    assert remarked({"worker 0": {}, "worker 1": {}}) == {}
    assert remarked({"worker 0": {"signing": "2 wait"}, "worker 1": {"signing": "1 waits", "snapshot": "old"}}) == {
        "signing": "worker 0: 2 wait; worker 1: 1 waits",
        "snapshot": "worker 1: old",
    }
