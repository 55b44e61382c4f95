"""Structural schemas: prune, default, refuse, in Kubernetes' words."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from deploy.devcluster.apiserver import ApiServer
from deploy.devcluster.apiserver.kinds.builtin_schemas import shapes
from deploy.devcluster.apiserver.kinds.cel_presence import holds
from deploy.devcluster.apiserver.kinds.schema import FitResult, fit
from deploy.devcluster.cluster_api import KubeApiError


def fitted(schema: dict[str, Any], value: Any) -> tuple[Any, list[str], list[str]]:
    """The value, what was unknown, and the sentences."""
    found = FitResult([], [], [])
    made = fit(schema, value, "spec", found)
    return made, found.unknown, [f"{one.field}: {one.message}" for one in found.causes]


def properties(**named: Any) -> dict[str, Any]:
    return {"type": "object", "properties": named}


def test_unknown_fields_are_dropped_and_named() -> None:
    made, unknown, said = fitted(properties(a={"type": "string"}), {"a": "x", "b": {"c": 1}})
    assert (made, unknown, said) == ({"a": "x"}, ["spec.b"], [])


def test_unknown_fields_stay_where_the_schema_preserves_them() -> None:
    schema = properties(a={"type": "object", "x-kubernetes-preserve-unknown-fields": True})
    assert fitted(schema, {"a": {"b": [1, {"c": None}]}}) == ({"a": {"b": [1, {"c": None}]}}, [], [])


def test_defaults_fill_what_is_missing_also_inside_what_is_there() -> None:
    schema = properties(a={"type": "object", "properties": {"b": {"type": "integer", "default": 3}}, "default": {}})
    assert fitted(schema, {})[0] == {"a": {"b": 3}}
    assert fitted(schema, {"a": None})[0] == {"a": {"b": 3}}
    assert fitted(schema, {"a": {"b": 4}})[0] == {"a": {"b": 4}}


def test_a_default_is_not_shared_between_objects() -> None:
    schema = properties(a={"type": "array", "items": {"type": "string"}, "default": []})
    first = fitted(schema, {})[0]
    first["a"].append("x")
    assert fitted(schema, {})[0] == {"a": []}


@pytest.mark.parametrize(
    ("schema", "value", "sentence"),
    [
        (
            {"type": "integer"},
            "5",
            'spec: Invalid value: "string": spec in body must be of type integer: "string"',
        ),
        ({"type": "integer"}, 1.5, 'spec: Invalid value: "number": spec in body must be of type integer: "number"'),
        ({"type": "integer"}, True, 'spec: Invalid value: "boolean": spec in body must be of type integer: "boolean"'),
        ({"type": "object", "required": ["a"]}, {}, "spec.a: Required value"),
        (
            {"type": "string", "enum": ["a", "b"]},
            "c",
            'spec: Unsupported value: "c": supported values: "a", "b"',
        ),
        (
            {"type": "string", "pattern": "^a+$"},
            "b",
            "spec: Invalid value: \"b\": spec in body should match '^a+$'",
        ),
        (
            {"type": "integer", "minimum": 1},
            0,
            "spec: Invalid value: 0: spec in body should be greater than or equal to 1",
        ),
        (
            {"type": "integer", "maximum": 1, "exclusiveMaximum": True},
            1,
            "spec: Invalid value: 1: spec in body should be less than 1",
        ),
        ({"type": "string", "maxLength": 2}, "abc", "spec: Too long: may not be more than 2 bytes"),
        (
            {"type": "string", "minLength": 1},
            "",
            'spec: Invalid value: "": spec in body should be at least 1 chars long',
        ),
        (
            {"type": "array", "items": {"type": "string"}, "minItems": 1},
            [],
            "spec: Invalid value: 0: spec in body should have at least 1 items",
        ),
        (
            {"type": "array", "items": {"type": "string"}, "maxItems": 1},
            ["a", "b"],
            "spec: Too many: 2: must have at most 1 items",
        ),
        (
            {
                "type": "array",
                "items": {"type": "object", "properties": {"n": {"type": "string"}}},
                "x-kubernetes-list-type": "map",
                "x-kubernetes-list-map-keys": ["n"],
            },
            [{"n": "a"}, {"n": "a"}],
            'spec[1]: Duplicate value: {"n":"a"}',
        ),
        (
            {"x-kubernetes-int-or-string": True},
            1.5,
            'spec: Invalid value: "number": spec in body must be of type integer,string: "number"',
        ),
    ],
)
def test_what_does_not_fit_is_said_as_kubernetes_says_it(schema: dict[str, Any], value: Any, sentence: str) -> None:
    assert fitted(schema, value)[2] == [sentence]


def test_any_of_needs_one_branch_and_one_of_exactly_one() -> None:
    any_of = {"type": "object", "properties": {"a": {}, "b": {}}, "anyOf": [{"required": ["a"]}, {"required": ["b"]}]}
    one_of = {**any_of, "oneOf": any_of["anyOf"]}
    one_of.pop("anyOf")
    assert fitted(any_of, {"a": 1, "b": 1})[2] == []
    assert "at least one schema (anyOf)" in fitted(any_of, {})[2][0]
    assert "Found 2 valid" in fitted(one_of, {"a": 1, "b": 1})[2][0]


def test_a_wrong_type_in_a_built_in_kind_names_the_go_field() -> None:
    found = FitResult([], [], [], decode=True)
    fit(shapes()["Deployment"], {"spec": {"template": {"spec": {"containers": [{"name": 5}]}}}}, "", found)
    assert found.mismatches[0].field == "Container.spec.template.spec.containers[0].name"
    assert (found.mismatches[0].found, found.mismatches[0].wanted) == ("number", "string")


def test_quantities_are_written_as_numbers_or_text_and_kept_as_text() -> None:
    found = FitResult([], [], [], decode=True)
    made = fit(shapes()["ResourceRequirements"], {"limits": {"cpu": 2, "memory": "64Mi", "x": "1e3"}}, "r", found)
    assert made == {"limits": {"cpu": "2", "memory": "64Mi", "x": "1e3"}}
    assert not found.mismatches
    fit(shapes()["ResourceRequirements"], {"limits": {"cpu": "two"}}, "r", found)
    assert found.mismatches


def test_every_type_of_the_built_in_kinds_is_known() -> None:
    """A misspelt or missing type in shapes.txt would end as a schema that accepts nothing."""
    for name, schema in shapes().items():
        assert set(schema["required"]) <= set(schema["properties"]), name
    assert shapes()["Pod"]["properties"]["spec"] is shapes()["PodSpec"]


@pytest.mark.parametrize(
    ("rule", "fields", "holding"),
    [
        ("has(self.a)", "a", True),
        ("has(self.a)", "b", False),
        ("has(self.a) || (has(self.b) && has(self.c))", "bc", True),
        ("has(self.a) || (has(self.b) && has(self.c))", "b", False),
        ("has(self.a) && has(self.b) || has(self.c)", "c", True),
        ("self.a > 3", "", True),
        ("has(self.a) ||", "", True),
        ("!has(self.a)", "a", True),
    ],
)
def test_rules_about_presence_are_run_and_all_others_are_not(rule: str, fields: str, *, holding: bool) -> None:
    assert holds(rule, dict.fromkeys(fields, 1)) is holding


async def test_what_kubernetes_forbids_at_the_root_of_a_schema_is_refused() -> None:
    path = Path(__file__).parents[4] / "deploy" / "crds" / "traffictargets.access.smi-spec.io.yaml"
    for root, fine in (({}, True), ({"anyOf": [{"required": ["spec"]}]}, False), ({"minProperties": 1}, False)):
        definition = yaml.safe_load(path.read_text())
        for version in definition["spec"]["versions"]:
            version["schema"] = {"openAPIV3Schema": {**version["schema"]["openAPIV3Schema"], **root}}
        api = ApiServer()
        created = api.cluster.create("customresourcedefinitions.apiextensions.k8s.io", definition)
        if fine:
            await created
            continue
        with pytest.raises(KubeApiError, match="allowed at the root of the schema"):
            await created
