from __future__ import annotations

from collections.abc import AsyncIterator

import pytest

from deploy.devcluster.apiserver import ApiServer


class Clock:
    """A clock that tests set."""

    def __init__(self) -> None:
        self.now = 1_800_000_000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
async def api(clock: Clock) -> AsyncIterator[ApiServer]:
    server = ApiServer(clock=clock, first_revision=1, window=50)
    await server.start()
    yield server
    await server.stop()
