"""Loops that these tests run on: services run on uvloop where there is one, and its TLS is its own."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping

import pytest
import uvloop

_SERVERS = ("test_webhook_server.py", "test_admission.py")


def pytest_asyncio_loop_factories(
    config: pytest.Config,
    item: pytest.Item,
) -> Mapping[str, Callable[[], asyncio.AbstractEventLoop]]:
    """Both loops for tests of the server itself."""
    factories: dict[str, Callable[[], asyncio.AbstractEventLoop]] = {"asyncio": asyncio.new_event_loop}
    if item.path.name in _SERVERS:
        factories["uvloop"] = uvloop.new_event_loop
    return factories
