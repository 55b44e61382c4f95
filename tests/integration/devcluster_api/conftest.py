from __future__ import annotations

from collections.abc import AsyncIterator

import pytest

from tests.integration.devcluster_api.client import Client, serving


@pytest.fixture
async def client() -> AsyncIterator[Client]:
    """An API with a small window and frequent bookmarks, and a client of its administrator."""
    async with serving(window=20, bookmark_seconds=0.2) as client:
        yield client
