"""Whoever asks why a call is denied is told of an object that the log has only in its closed form."""

from __future__ import annotations

import pytest

from cli.calls.directory import Directory
from cli.calls.matching import HttpRequest
from cli.calls.near_misses import policy_of
from cli.calls.question import ask, explained
from services.compiler.core.offline import compile_events
from services.compiler.mesh_state import MeshSettings
from shared.errors import BadInputError
from shared.records.events import Event
from tests.unit.compiler import objects
from tests.unit.compiler.test_withheld import SIZE, one_of, withheld

GET = HttpRequest(method="GET", path="/books")


def lines(mesh: list[Event], called: str = "svc:store/store-v1") -> str:
    snapshot, directory = compile_events(mesh), Directory(mesh, cluster=objects.CLUSTER)
    answers = ask(snapshot, directory, "buy/buyer-0", called, GET)
    told = explained(answers, GET, lambda namespaces: policy_of(mesh, MeshSettings(), namespaces))
    return "\n".join(line for answer in told for line in answer.lines)


def test_a_target_that_is_withheld_is_the_first_hint() -> None:
    mesh = objects.bookstore()
    assert "allowed" in lines(mesh)
    target = one_of(mesh, "TrafficTarget", "buyer-v1")
    told = lines([target_or for target_or in mesh if target_or is not target] + [withheld(target)])
    assert "denied" in told
    assert "TrafficTarget store/buyer-v1 is left out" in told.splitlines()[1]
    assert str(SIZE) in told


def test_a_service_that_is_withheld_says_why_it_leads_nowhere() -> None:
    mesh = objects.bookstore()
    service = one_of(mesh, "Service", "store-v1")
    mesh = [each for each in mesh if each is not service] + [withheld(service)]
    with pytest.raises(BadInputError, match=rf"no call leads to Service store/store-v1: it has {SIZE} bytes"):
        lines(mesh)
