"""A manifest whose types are others than its kind's is named; nothing that reads manifests meets it."""

from __future__ import annotations

import contextlib
import copy
from collections.abc import Iterator
from typing import Any

import pytest

from cli.demo.scenario import MANIFESTS
from cli.kubernetes.manifest_files import Manifest, read_manifests
from cli.kubernetes.manifest_types import shaped
from cli.migrate.advice import advise
from cli.offline.simulated_cluster import cluster_of
from cli.plan.sample_requests import samples
from shared.errors import BadInputError
from tests.unit.compiler import objects

FILES = ("00-mesh", "10-workloads", "20-access", "30-database", "40-split")
GOOD = [manifest for file in FILES for manifest in read_manifests(MANIFESTS / f"{file}.yaml")]
KINDS = {manifest["kind"]: index for index, manifest in enumerate(GOOD)}
SUBSTITUTES: tuple[Any, ...] = (None, 1, -1.5, True, "x", [], {}, [None], ["x"], {"a": None}, [{}])


def places(value: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    yield path
    below = value.items() if isinstance(value, dict) else enumerate(value[:1]) if isinstance(value, list) else ()
    for key, one in below:
        yield from places(one, (*path, key))


def mutants(kind: str) -> Iterator[list[Manifest]]:
    """Everything good, with one place of one object changed."""
    for path in places(GOOD[KINDS[kind]]):
        if path[:1] not in {("spec",), ("data",)}:
            continue
        for substitute in SUBSTITUTES:
            everything = list(GOOD)
            changed = everything[KINDS[kind]] = copy.deepcopy(GOOD[KINDS[kind]])
            place: Any = changed
            for key in path[:-1]:
                place = place[key]
            place[path[-1]] = substitute
            yield everything


@pytest.mark.parametrize("kind", sorted(KINDS))
def test_no_type_of_any_field_is_more_than_a_sentence(kind: str) -> None:
    tried = refused = 0
    for manifests in mutants(kind):
        tried += 1
        with contextlib.suppress(BadInputError):
            refused += 1
            advise(shaped(copy.deepcopy(manifests), custom=True), "meshlog", complete=False)
            refused -= 1
        with contextlib.suppress(BadInputError):
            cluster_of(shaped(copy.deepcopy(manifests)), mesh_name="meshlog", mesh_namespace="meshlog-system")
    assert refused or not tried


def test_the_sentence_names_object_field_and_types() -> None:
    service = {"apiVersion": "v1", "kind": "Service", "metadata": {"name": "x", "namespace": "y"}}
    with pytest.raises(BadInputError, match=r"Service y/x: spec\.ports\[0\] must be a mapping, not text"):
        shaped([{**service, "spec": {"ports": ["http"]}}])
    assert shaped([{**service, "spec": None}]) == [service]


def test_kinds_of_others_are_left_alone() -> None:
    theirs = {"apiVersion": "serving.knative.dev/v1", "kind": "Service", "metadata": {"name": "x"}, "spec": [1]}
    assert shaped([theirs], custom=True) == [theirs]


@pytest.mark.parametrize(
    "match", [{"methods": 1}, {"methods": {"a": 1}}, {"headers": 1}, {"headers": [1]}, {"pathRegex": {}}]
)
def test_calls_are_asked_of_a_route_group_with_other_types(match: dict[str, Any]) -> None:
    group = {"metadata": {"name": "g", "namespace": "n"}, "spec": {"matches": [{"name": "m", **match}]}}
    assert samples([objects.event("HTTPRouteGroup", "n", "g", group, api_version=objects.SPECS)]).requests
