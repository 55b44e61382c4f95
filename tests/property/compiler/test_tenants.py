"""Nothing that a tenant writes changes one byte that others hold, but what they let it: see `tests.oracle.tenancy`."""

from __future__ import annotations

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from services.compiler.core.compiler import Compiler
from services.compiler.mesh_state import MeshSettings
from shared.records.events import Event
from shared.records.snapshot import Snapshot
from tests.oracle import tenancy
from tests.oracle.smi import Cluster
from tests.property.compiler.tenants import TENANT, World, worlds
from tests.property.compiler.test_incremental import assert_whole

SLOW = settings(
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large, HealthCheck.large_base_example],
)


class Compiled:
    """A mesh, compiled as its events come."""

    def __init__(self) -> None:
        self.snapshot = Snapshot()
        self.cluster = Cluster(())
        self._compiler = Compiler(MeshSettings())
        self._sequence = 0

    def take(self, events: list[Event]) -> None:
        """The next version."""
        for event in events:
            self._sequence += 1
            self._compiler.fold(event, self._sequence)
            self.cluster.take(event)
        commit = self._compiler.commit(self.snapshot)
        if commit is not None:
            self.snapshot.apply(commit)
        self._compiler.accept()
        assert not self._compiler.failures, self._compiler.failures
        assert_whole(self.snapshot, proxyless=True)


def problems(snapshot: Snapshot) -> list[tuple[str, str]]:
    """What is said about objects of others."""
    return [(str(one.key), one.code) for one in snapshot.quarantine if one.key.namespace != TENANT]


def compare(beside: Compiled, alone: Compiled, *, trusting: bool) -> None:
    """What others hold beside the tenant, and what they hold without it."""
    there = {key: proxy for key, proxy in beside.snapshot.proxies.items() if proxy.namespace != TENANT}
    assert set(there) == {key for key, proxy in alone.snapshot.proxies.items() if proxy.namespace != TENANT}
    for key, proxy in there.items():
        held = tenancy.held_by(beside.snapshot, key)
        wanted = tenancy.held_by(alone.snapshot, key)
        found = tenancy.without(held, TENANT, trusting=trusting)
        assert found == tenancy.without(wanted, TENANT, trusting=trusting), key
        account = proxy.namespace, proxy.service_account
        tenancy.assert_bounded(beside.cluster, account, TENANT, tenancy.of(held, TENANT))
    if not trusting:
        assert problems(beside.snapshot) == problems(alone.snapshot)


def assert_nothing_of_others_changes(world: World, cuts: list[int]) -> None:
    """The tenant writes before, between and after; `cuts` say when others come, and when a version is made."""
    beside, alone = Compiled(), Compiled()
    first = cuts[0] % (len(world.tenant) + 1)
    beside.take(world.tenant[:first])
    beside.take(world.others)
    alone.take(world.others)
    compare(beside, alone, trusting=world.trusting)
    at = first
    for step in cuts[1:]:
        beside.take(world.tenant[at : at + step])
        at += step
        compare(beside, alone, trusting=world.trusting)
    beside.take(world.tenant[at:])
    compare(beside, alone, trusting=world.trusting)


CUTS = st.lists(st.integers(0, 12), min_size=1, max_size=4)


@settings(SLOW, max_examples=80)
@given(worlds(), CUTS)
def test_nothing_that_a_tenant_writes_changes_a_byte_of_others(world: World, cuts: list[int]) -> None:
    assert_nothing_of_others_changes(world, cuts)


@pytest.mark.long
@pytest.mark.timeout(3600)
@settings(SLOW, max_examples=5000)
@given(worlds(), CUTS)
def test_nothing_that_a_tenant_writes_changes_a_byte_of_others_in_thousands_of_meshes(
    world: World, cuts: list[int]
) -> None:
    assert_nothing_of_others_changes(world, cuts)
