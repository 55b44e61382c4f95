"""When an edge is ready, and when it may serve its snapshot."""

from __future__ import annotations

import pytest

from services.xds_edge.readiness import EdgeReadiness
from services.xds_edge.snapshot.fleet import Fleet
from shared.identity.service_account_tokens import TokenVerifier
from tests.unit.xds_edge.grpc.test_ads_stream import commit


class Verifier(TokenVerifier):
    """A verifier that knows the issuers of these clusters."""

    known: list[str]

    @property
    def clusters(self) -> list[str]:
        return self.known


class Edge:
    """The readiness of an edge, and what `/readyz` reports of it."""

    def __init__(self, *, version: int = 1, clusters: tuple[str, ...] = ("c",)) -> None:
        self.states: dict[str, bool] = {}
        self.remarks: dict[str, str] = {}
        self.fleet = Fleet()
        if version:
            self.fleet.apply(commit(version))
        self.verifier = Verifier()
        self.verifier.known = list(clusters)
        self.readiness = EdgeReadiness(self.fleet, self.verifier, ready=self._ready, remark=self.remarks.__setitem__)

    def _ready(self, part: str, ready: bool, _why: str) -> None:  # noqa: FBT001 (a `Ready`)
        self.states[part] = ready


def test_it_begins_unready_and_serves_nothing() -> None:
    edge = Edge()
    assert edge.states == {"snapshot": False, "certificate": False}
    assert edge.readiness.served_version == 0


@pytest.mark.parametrize("confirm", [EdgeReadiness.caught_up, EdgeReadiness.trust_disk])
def test_it_serves_once_the_log_confirmed_the_snapshot_or_was_away_for_too_long(confirm: object) -> None:
    edge = Edge()
    assert callable(confirm)
    confirm(edge.readiness)
    assert edge.readiness.served_version == 1
    assert edge.states["snapshot"]


def test_a_snapshot_from_disk_is_served_and_not_confirmed() -> None:
    edge = Edge()
    edge.readiness.trust_disk()
    assert not edge.fleet.confirmed
    edge.readiness.caught_up()
    assert edge.fleet.confirmed
    edge.readiness.log_lost()
    assert not edge.fleet.confirmed
    assert edge.readiness.may_serve


def test_without_a_snapshot_the_disk_is_not_trusted() -> None:
    edge = Edge(version=0)
    edge.readiness.trust_disk()
    assert not edge.readiness.may_serve


def test_it_is_ready_only_when_tokens_can_be_verified() -> None:
    edge = Edge(clusters=())
    edge.readiness.caught_up()
    assert not edge.states["snapshot"]
    edge.verifier.known = ["c"]
    edge.readiness.issuers_changed()
    assert edge.states["snapshot"]


def test_issuers_alone_make_it_not_ready() -> None:
    edge = Edge()
    edge.readiness.issuers_changed()
    assert not edge.states["snapshot"]


@pytest.mark.parametrize(("version", "ready"), [(1, True), (0, False)])
def test_an_edge_that_needs_a_newer_build_stays_ready_if_it_has_a_snapshot(version: int, ready: bool) -> None:  # noqa: FBT001
    edge = Edge(version=version)
    edge.readiness.begin_serving()
    edge.readiness.stuck("needs a newer build")
    assert edge.remarks == {"snapshot": "needs a newer build"}
    assert edge.states["snapshot"] is ready
