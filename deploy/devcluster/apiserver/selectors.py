"""Parses label selectors and field selectors into predicates on objects. Pure."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from deploy.devcluster.apiserver.status_errors import bad_request
from deploy.devcluster.cluster_api import Obj

Matches = Callable[[Obj], bool]

_SET = re.compile(r"^\s*([^\s,()!=]+)\s+(in|notin)\s*\(([^()]*)\)\s*$")
_EQUAL = re.compile(r"^\s*([^\s,()!=]+)\s*(==|=|!=)\s*([^\s,()!=]*)\s*$")
_EXISTS = re.compile(r"^\s*(!?)\s*([^\s,()!=]+)\s*$")
_PARTS = re.compile(r",(?![^()]*\))")

FIELDS: Mapping[str, frozenset[str]] = {
    "pods": frozenset(
        {
            "spec.nodeName",
            "spec.restartPolicy",
            "spec.schedulerName",
            "spec.serviceAccountName",
            "status.phase",
            "status.podIP",
            "status.nominatedNodeName",
            "spec.hostNetwork",
        }
    ),
    "events": frozenset(
        {
            "involvedObject.kind",
            "involvedObject.namespace",
            "involvedObject.name",
            "involvedObject.uid",
            "involvedObject.apiVersion",
            "involvedObject.resourceVersion",
            "involvedObject.fieldPath",
            "reason",
            "reportingComponent",
            "source",
            "type",
        }
    ),
    "nodes": frozenset({"spec.unschedulable"}),
    "namespaces": frozenset({"status.phase"}),
    "secrets": frozenset({"type"}),
    "services": frozenset({"spec.clusterIP", "spec.type"}),
    "replicasets.apps": frozenset({"status.replicas"}),
}
"""Fields supported in selectors besides `metadata.name` and `metadata.namespace`, as in Kubernetes."""


def labels_of(obj: Obj) -> Mapping[str, Any]:
    """An object's labels."""
    return obj.get("metadata", {}).get("labels") or {}


def label_selector(text: str) -> Matches | None:
    """Parse `a=b,c!=d,e in (f,g),h,!i`. Returns None if it selects everything. Raises 400."""
    if not text.strip():
        return None
    tests: list[Callable[[Mapping[str, Any]], bool]] = []
    for part in _PARTS.split(text):
        if found := _SET.match(part):
            key, operator, listed = found.groups()
            tests.append(
                _requirement(key, "In" if operator == "in" else "NotIn", [v.strip() for v in listed.split(",")])
            )
        elif found := _EQUAL.match(part):
            key, operator, value = found.groups()
            tests.append(_requirement(key, "NotIn" if operator == "!=" else "In", [value]))
        elif found := _EXISTS.match(part):
            negated, key = found.groups()
            tests.append(_requirement(key, "DoesNotExist" if negated else "Exists", []))
        else:
            raise bad_request(f"unable to parse requirement: {part.strip()!r} is no label selector")

    def matches(obj: Obj) -> bool:
        labels = labels_of(obj)
        return all(test(labels) for test in tests)

    return matches


def structured_selector(selector: Mapping[str, Any] | None) -> Callable[[Mapping[str, Any]], bool]:
    """A predicate on labels for a `LabelSelector`; an empty or missing one selects everything."""
    tests = [_requirement(key, "In", [value]) for key, value in ((selector or {}).get("matchLabels") or {}).items()]
    tests.extend(
        _requirement(str(one.get("key")), str(one.get("operator")), one.get("values") or ())
        for one in (selector or {}).get("matchExpressions") or ()
    )
    return lambda labels: all(test(labels) for test in tests)


def _requirement(key: str, operator: str, values: Iterable[Any]) -> Callable[[Mapping[str, Any]], bool]:
    wanted = frozenset(values)
    if operator == "In":
        return lambda labels: key in labels and labels[key] in wanted
    if operator == "NotIn":
        return lambda labels: key not in labels or labels[key] not in wanted
    if operator == "Exists":
        return lambda labels: key in labels
    return lambda labels: key not in labels


def field_selector(resource: str, text: str) -> Matches | None:
    """Parse `metadata.name=x,status.phase!=Running`. Returns None if it selects everything. Raises 400."""
    if not text.strip():
        return None
    tests: list[Matches] = []
    for part in text.split(","):
        found = _EQUAL.match(part)
        if not found:
            raise bad_request(f"invalid selector: {part!r}; can't understand {part!r}")
        path, operator, value = found.groups()
        if path not in {"metadata.name", "metadata.namespace"} and path not in FIELDS.get(resource, ()):
            raise bad_request(f'field label not supported: "{path}"')
        tests.append(_field_test(path.split("."), value, negated=operator == "!="))
    return lambda obj: all(test(obj) for test in tests)


def _field_test(path: list[str], value: str, *, negated: bool) -> Matches:
    def test(obj: Obj) -> bool:
        at: Any = obj
        for step in path:
            at = at.get(step) if isinstance(at, dict) else None
        if isinstance(at, bool):
            at = str(at).lower()
        return (str("" if at is None else at) == value) is not negated

    return test


def both(first: Matches | None, second: Matches | None) -> Matches | None:
    """The conjunction of two predicates; None selects everything."""
    if first is None or second is None:
        return first or second
    return lambda obj: first(obj) and second(obj)
