"""The compiler as a whole: what one step leaves for the next."""

from __future__ import annotations

from services.compiler.compiler import Compiler
from services.compiler.mesh import MeshSettings
from services.compiler.offline import compile_events
from shared.events import Event
from shared.snapshot import CDS, Snapshot
from tests.unit.compiler import objects


class Stepping:
    def __init__(self, events: list[Event]) -> None:
        self.compiler = Compiler(MeshSettings())
        self.snapshot = Snapshot()
        self.history: list[Event] = []
        self.step(*events)

    def step(self, *events: Event) -> int:
        """Fold the events as one batch; how many resources were sent."""
        for event in events:
            self.history.append(event)
            self.compiler.fold(event, len(self.history))
        commit = self.compiler.commit(self.snapshot)
        if commit is not None:
            self.snapshot.apply(commit)
        self.compiler.accept()
        assert self.snapshot.views == compile_events(self.history).views
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
