"""Metrics and remarks about the mesh: waiting events, expired certificates, an API server that is away."""

from __future__ import annotations

import asyncio

import msgspec
import pytest

from services.ingestor.core.reflector import Failure
from services.ingestor.kubernetes.api_probe import ApiProbe
from services.ingestor.kubernetes.object_source import SourceError
from services.ingestor.status.mesh_metrics import PublishDelay
from tests.unit.ca.running import tasks
from tests.unit.ingestor.status.test_reports import reached, status
from tests.waiting import eventually


def test_an_event_that_is_not_published_is_late_by_the_time_since_it_was_seen() -> None:
    overdue = PublishDelay()
    for newest, compiled, now, seconds in (
        (5, 5, 0.0, 0.0),
        (6, 5, 1.0, 0.0),
        (6, 5, 3.0, 2.0),
        (9, 5, 4.0, 3.0),  # others that came meanwhile make it no younger
        (9, 6, 5.0, 0.0),  # it is published, and those are measured from now on
        (9, 6, 7.0, 2.0),
        (9, 9, 8.0, 0.0),
    ):
        overdue.look(newest=newest, compiled=compiled, now=now)
        assert overdue.seconds == seconds, now


def test_steady_change_that_is_published_at_once_is_never_late() -> None:
    overdue = PublishDelay()
    for now in range(1, 100):
        overdue.look(newest=10 * now + 9, compiled=10 * now, now=float(now))
        assert overdue.seconds == 0


@pytest.mark.parametrize(
    ("until", "connected", "ended"),
    [(99, True, ["shop/a"]), (100, True, ["shop/a"]), (101, True, []), (0, True, []), (99, False, [])],
)
def test_only_certificates_of_connected_proxies_end(until: int, connected: bool, ended: list[str]) -> None:  # noqa: FBT001
    progress = reached()
    progress.take_status(msgspec.structs.replace(status("a", 5, connected=connected), certificate_until=until))
    assert progress.ended(100.0) == ended


class Server:
    """An API server that answers, refuses, or is silent."""

    def __init__(self) -> None:
        self.does = "answers"

    async def __call__(self) -> None:
        if self.does == "refuses":
            raise SourceError(Failure("connection (refused)"))
        if self.does == "is silent":
            await asyncio.get_running_loop().create_future()


@pytest.mark.parametrize(
    ("does", "why"), [("refuses", "connection (refused)"), ("is silent", "does not answer within 0.05 s")]
)
async def test_a_server_that_is_away_is_said_and_said_to_be_back(does: str, why: str) -> None:
    server = Server()
    pulse = ApiProbe(server, every=0.01, within=0.05)
    async with tasks(pulse.run()):
        server.does = does
        await eventually(lambda: why in pulse.trouble, within=5, what="it is said to be away")
        assert pulse.changed.is_set()
        pulse.changed.clear()
        server.does = "answers"
        await eventually(lambda: not pulse.trouble, within=5, what="it is said to be back")
        assert pulse.changed.is_set()
