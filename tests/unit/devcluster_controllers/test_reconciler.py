"""The work queue: coalesced, one at a time for a key, and persistent."""

from __future__ import annotations

import asyncio

from deploy.devcluster.cluster_api import KubeApiError
from deploy.devcluster.controllers.reconciler import Reconciler
from deploy.devcluster.object_fields import Key
from tests.waiting import eventually

KEY = ("default", "web")


async def test_news_during_a_reconcile_makes_exactly_one_more() -> None:
    entered, go_on, turns = asyncio.Event(), asyncio.Event(), 0

    async def reconcile(key: Key) -> None:
        nonlocal turns
        turns += 1
        entered.set()
        await go_on.wait()

    queue = Reconciler("test", reconcile)
    queue.enqueue(KEY)
    await entered.wait()
    for _ in range(5):
        queue.enqueue(KEY)
    assert turns == 1
    go_on.set()
    await eventually(lambda: turns == 2, within=2, what="one more turn")
    await queue.close()
    assert turns == 2


async def test_a_failure_is_tried_again_until_it_succeeds() -> None:
    turns = 0

    async def reconcile(key: Key) -> None:
        nonlocal turns
        turns += 1
        if turns < 3:
            raise KubeApiError(500, "InternalError", "not now")

    queue = Reconciler("test", reconcile)
    queue.enqueue(KEY)
    await eventually(lambda: turns == 3, within=2, what="the third turn")
    await queue.close()


async def test_a_reconcile_can_ask_to_be_called_again_later() -> None:
    turns = 0

    async def reconcile(key: Key) -> float | None:
        nonlocal turns
        turns += 1
        return 0.01 if turns == 1 else None

    queue = Reconciler("test", reconcile)
    queue.enqueue(KEY)
    await eventually(lambda: turns == 2, within=2, what="the second turn")
    await queue.close()
