"""The closed form of an object, whatever it was, lets no call pass that the object itself would not have let pass."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cli.calls.path import Sidecars
from services.compiler.core.offline import compile_events
from shared.projected_objects import KINDS
from shared.records.events import Event, encode_object
from shared.records.snapshot import Snapshot
from shared.records.withheld import MOST_BYTES, closed
from tests.oracle import meshes
from tests.oracle.deciding import identity_of, request_of
from tests.oracle.smi import Ask
from tests.property.compiler.test_oracle import SLOW


def withheld(event: Event, *, told: bool = True) -> Event:
    """What the ingestor writes of it when it has become too large; not `told`: as an older build reads that."""
    assert event.object is not None
    value = msgspec.json.decode(event.object, type=KINDS[event.kind])
    return msgspec.structs.replace(
        event,
        resource_version="2",
        object=encode_object(closed(event.kind, value)),
        withheld=MOST_BYTES + 1 if told else 0,
    )


def passes(snapshot: Snapshot, mesh: meshes.Mesh, asks: list[Ask]) -> Iterator[tuple[Any, ...]]:
    """The calls that pass, of all accounts to all ports of all servers."""
    sidecars = Sidecars(snapshot, mesh.addresses)
    for server, where, who, port in itertools.product(
        snapshot.proxies, meshes.NAMESPACES, meshes.ACCOUNTS, meshes.TARGETS
    ):
        for ask in asks if port != meshes.BYTES else asks[:1]:
            request = None if port == meshes.BYTES else request_of(ask)
            if sidecars.enter(identity_of((where, who)), server, port, request).passes:
                yield server, where, who, port, ask


@pytest.mark.long
@settings(SLOW, max_examples=1000)
@given(meshes.meshes(), st.data())
def test_nothing_passes_by_a_closed_form_that_did_not_pass_before(mesh: meshes.Mesh, data: st.DataObject) -> None:
    living = [one for one in mesh.events if one.object is not None]
    kinds = sorted({one.kind for one in living})
    kind = data.draw(st.sampled_from(kinds))
    chosen = data.draw(st.sampled_from([one for one in living if one.kind == kind]))
    asks = data.draw(st.lists(meshes.asks(), min_size=2, max_size=3))
    before = set(passes(compile_events(mesh.events), mesh, asks))
    for told in (True, False):
        after = compile_events([*mesh.events, withheld(chosen, told=told)])
        assert set(passes(after, mesh, asks)) <= before, f"{chosen.key}, read by a build that knows: {told}"
