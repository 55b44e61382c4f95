"""What a slice leads to: its service by the label, its pods by reference, whichever of the two changes."""

from __future__ import annotations

import msgspec

from services.compiler.core.compiler import Compiler
from services.compiler.core.offline import compile_events
from services.compiler.mesh_state import MeshSettings
from shared.projected_objects import EndpointSlice
from shared.records.events import Event
from shared.records.snapshot import Snapshot
from tests.unit.compiler import objects

V1 = {"v1-0": "10.244.2.1"}


def relabelled(event: Event, service: str) -> Event:
    """The slice, of another service, with the same pods."""
    value = msgspec.json.decode(event.object or b"", type=EndpointSlice)
    metadata = msgspec.structs.replace(value.metadata, labels={"kubernetes.io/service-name": service})
    return objects.event(
        "EndpointSlice", event.namespace, event.name, msgspec.structs.replace(value, metadata=metadata)
    )


def after(history: list[Event]) -> object:
    """What the compiler holds after these events, one by one."""
    compiler, snapshot = Compiler(MeshSettings()), Snapshot()
    for sequence, event in enumerate(history, 1):
        compiler.fold(event, sequence)
        if (commit := compiler.commit(snapshot)) is not None:
            snapshot.apply(commit)
        compiler.accept()
    return snapshot.views, snapshot.proxies


def from_scratch(history: list[Event]) -> object:
    """What the newest event of each object compiles to."""
    snapshot = compile_events(list({event.key: event for event in history}.values()))
    return snapshot.views, snapshot.proxies


def test_a_slice_that_changes_its_service_takes_its_pods_along() -> None:
    moved = relabelled(objects.slices("store", "store-v1", V1), "store-v2")
    history = [*objects.bookstore(), moved]
    assert after(history) == from_scratch(history) != after(objects.bookstore())


def test_a_slice_that_changes_its_pods_leads_to_those() -> None:
    changed = objects.slices("store", "store-v1", {"v2-0": "10.244.2.2"})
    history = [*objects.bookstore(), changed]
    assert after(history) == from_scratch(history) != after(objects.bookstore())


def test_readiness_alone_moves_nothing_and_is_seen() -> None:
    unready = objects.slices("store", "store-v1", V1, unready=["v1-0"])
    history = [*objects.bookstore(), unready]
    assert after(history) == from_scratch(history) != after(objects.bookstore())
