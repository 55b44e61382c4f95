"""The compiler as a whole: what one step leaves for the next."""

from __future__ import annotations

import copy

import pytest

from services.compiler.core.compiler import Compiler
from services.compiler.core.offline import compile_events
from services.compiler.derive.classes import WorkloadClass
from services.compiler.mesh_state import MeshSettings, MeshState
from services.compiler.views.view_refs import ViewRefs, view
from shared.records.events import Event
from shared.records.snapshot import CDS, Snapshot
from tests.unit.compiler import objects


class Stepping:
    def __init__(self, events: list[Event]) -> None:
        self.compiler = Compiler(MeshSettings())
        self.snapshot = Snapshot()
        self.history: list[Event] = []
        self.step(*events)

    def step(self, *events: Event) -> int:
        """Fold the events as one batch; how many resources were sent."""
        sent = self.fold(*events)
        assert self.snapshot.views == compile_events(self.history).views
        return sent

    def fold(self, *events: Event) -> int:
        """The same, whatever comes out."""
        for event in events:
            self.history.append(event)
            self.compiler.fold(event, len(self.history))
        commit = self.compiler.commit(self.snapshot)
        if commit is not None:
            self.snapshot.apply(commit)
        self.compiler.accept()
        return 0 if commit is None else len(commit.resources)


def caller(namespace: str, account: str) -> Event:
    return objects.target(
        "store",
        "buyer-v2",
        destination="store-v2",
        sources=[(namespace, account)],
        rules=[("HTTPRouteGroup", "routes", [])],
    )


def test_a_resource_that_passes_from_its_last_holder_to_a_new_one_stays() -> None:
    """Its only holder lets go in the same step in which another takes it."""
    mesh = Stepping([event for event in objects.bookstore() if event.kind != "TrafficSplit"])
    for _ in range(3):
        mesh.step(caller("buy", "thief"))
        held = [name for name, view in mesh.snapshot.views.items() if "outbound|store/store-v2|80" in view[CDS]]
        assert [name.partition("~")[0] for name in held] == ["buy/thief"]
        mesh.step(caller("buy", "buyer"))
        held = [name for name, view in mesh.snapshot.views.items() if "outbound|store/store-v2|80" in view[CDS]]
        assert [name.partition("~")[0] for name in held] == ["buy/buyer"]


def test_a_class_that_empties_and_fills_again_in_one_step_stays() -> None:
    mesh = Stepping(objects.bookstore())
    again = next(event for event in objects.bookstore() if event.kind == "Pod" and event.name == "v1-0")
    assert mesh.step(objects.deleted("Pod", "store", "v1-0"), again) == 0


def test_what_was_seen_by_a_commit_that_was_not_accepted_is_in_the_next() -> None:
    compiler, snapshot = Compiler(MeshSettings()), Snapshot()
    for sequence, event in enumerate(objects.bookstore(), 1):
        compiler.fold(event, sequence)
    first = compiler.commit(snapshot)
    assert first is not None
    again = compiler.commit(snapshot)
    assert again == first


def test_a_view_that_cannot_be_compiled_holds_what_it_held_and_the_others_go_on(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A bug of ours that one proxy's configuration meets is named, and is no outage of the others."""
    mesh = Stepping([event for event in objects.bookstore() if event.kind != "TrafficSplit"])
    mesh.step(caller("buy", "buyer"))
    before = copy.deepcopy(mesh.snapshot.views)
    buyer, thief = (next(name for name in before if name.startswith(f"buy/{who}~")) for who in ("buyer", "thief"))
    works = view.function

    def fails_for_the_buyer(context: MeshState, workload_class: WorkloadClass) -> ViewRefs:
        found = works(context, workload_class)
        if workload_class.id == buyer:
            raise ZeroDivisionError("a bug of ours")
        return found

    monkeypatch.setattr(view, "function", fails_for_the_buyer)
    mesh.fold(caller("buy", "thief"))
    assert "outbound|store/store-v2|80" in mesh.snapshot.views[thief][CDS]
    assert "outbound|store/store-v2|80" not in before[thief][CDS]
    assert mesh.snapshot.views[buyer][CDS] == before[buyer][CDS]
    assert [(one.code, one.sentence) for one in mesh.snapshot.quarantine] == [
        ("compiler/failed", "ZeroDivisionError: a bug of ours")
    ]
    monkeypatch.undo()
    mesh.step(caller("buy", "buyer"))
    assert not mesh.snapshot.quarantine
    assert mesh.snapshot.views == before
