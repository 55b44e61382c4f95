"""Whatever is sent, the API stores it or refuses it: nonsense is never a programming error."""

from __future__ import annotations

from typing import Any

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from deploy.devcluster.apiserver import ApiServer
from deploy.devcluster.apiserver.http.protobuf import decode
from deploy.devcluster.apiserver.kinds.kind_registry import ResourceTarget
from deploy.devcluster.apiserver.kinds.schema import clone
from deploy.devcluster.apiserver.status_errors import StatusError
from deploy.devcluster.apiserver.write.patching import json_patch, merge, strategic
from deploy.devcluster.apiserver.write.write_options import WriteOptions
from deploy.devcluster.cluster_api import Obj
from tests.unit.devcluster_api.kinds.test_builtin_rules import service, webhook
from tests.unit.devcluster_api.objects import config_map, definition, deployment, pod

JUNK = st.sampled_from(
    [
        None,
        True,
        0,
        -1,
        1.5,
        1 << 70,
        "",
        "x",
        "ÿ\n",
        [],
        [None],
        [[]],
        [{}],
        [5],
        {},
        {"a": None},
        {"": {}},
        {"a": [{}]},
    ]
)
BASES = [
    pod(volumes=[{"name": "v", "projected": {"sources": [{"serviceAccountToken": {"path": "t"}}]}}]),
    deployment(),
    service(selector={"a": "b"}),
    config_map(a="b"),
    webhook(rules=[{"operations": ["*"], "apiGroups": [""], "apiVersions": ["*"], "resources": ["nothings"]}]),
    definition(
        {
            "type": "object",
            "required": ["a"],
            "properties": {
                "a": {"type": "string", "pattern": "^a", "enum": ["a"], "default": "a", "maxLength": 3},
                "b": {"type": "array", "items": {"type": "object"}, "x-kubernetes-list-type": "map",
                      "x-kubernetes-list-map-keys": ["k"]},
                "c": {"anyOf": [{"type": "integer", "format": "int32"}], "x-kubernetes-int-or-string": True},
                "d": {"type": "object", "additionalProperties": {"type": "number", "minimum": 1}},
            },
        }
    ),
]  # fmt: skip


def places(value: Any, at: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """Every path of a document."""
    found = [at]
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, below in items:
        found += places(below, (*at, key))
    return found


@st.composite
def broken(draw: st.DrawFn) -> Obj:
    """A valid object with junk at up to three places."""
    made = clone(draw(st.sampled_from(BASES)))
    for _ in range(draw(st.integers(1, 3))):
        *path, last = draw(st.sampled_from([place for place in places(made) if place]))
        at = made
        for step in path:
            at = at[step]
        at[last] = clone(draw(JUNK))
    return made


def target(api: ApiServer, obj: Any) -> ResourceTarget | None:
    if not isinstance(obj.get("apiVersion"), str) or not isinstance(obj.get("kind"), str):
        return None
    found = api.kinds.of(obj["apiVersion"], obj["kind"])
    return ResourceTarget(*found, "default" if found[0].namespaced else "", "x") if found else None


def _check(refusal: StatusError) -> None:
    assert refusal.status < 500, refusal.sentence
    assert refusal.body["message"]


async def attempt(call: Any) -> Any:
    """The result, or none if it was refused as Kubernetes refuses."""
    try:
        return await call
    except StatusError as refusal:
        return _check(refusal)


SETTINGS = settings(
    max_examples=300, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow]
)


@SETTINGS
@given(obj=broken(), applied=broken())
async def test_a_broken_object_is_stored_or_refused(api: ApiServer, obj: Obj, applied: Obj) -> None:
    place = target(api, obj)
    if place is None:
        return
    stored = await attempt(api.writer.create(place, clone(obj), WriteOptions(validation="Warn")))
    await attempt(api.writer.apply(place, clone(obj), WriteOptions(force=True)))
    if stored is not None:
        name = stored.obj["metadata"]["name"]
        place = ResourceTarget(place.kind, place.version, place.namespace, name)
        await attempt(api.writer.modify(place, lambda old: merge(old, {**applied, "metadata": {}}), WriteOptions()))
        await attempt(api.writer.update(place, applied, WriteOptions()))
        change = {key: value for key, value in applied.items() if key not in {"apiVersion", "kind", "metadata"}}
        if not place.kind.custom:
            await attempt(
                api.writer.modify(place, lambda old: strategic(old, change, place.version.schema), WriteOptions())
            )
        if place.kind.resource.startswith("customresourcedefinitions") and name == "things.example.org":
            kind = api.kinds.get("things.example.org")
            assert kind is not None
            for spec in ({}, {"a": "a", "b": [{"k": 1}, {"k": 1}], "c": "x", "d": {"x": 5}}, 5):
                thing = {"metadata": {"name": "t", "namespace": "default"}, "spec": spec}
                await attempt(api.writer.create(ResourceTarget(kind, kind.preferred, "default"), thing, WriteOptions()))
        await attempt(api.cluster.delete(place.kind.resource, place.namespace, name, grace_seconds=0))
        await attempt(api.cluster.patch(place.kind.resource, place.namespace, name, {"metadata": {"finalizers": None}}))


@SETTINGS
@given(operations=st.lists(st.fixed_dictionaries({"op": st.sampled_from(["add", "replace", "remove"]),
       "path": st.sampled_from(["", "/spec", "/spec/containers/0", "/metadata", "/metadata/name", "/metadata/labels"]),
       "value": JUNK}), min_size=1, max_size=3))  # fmt: skip
async def test_a_patch_to_nonsense_is_stored_or_refused(api: ApiServer, operations: Any) -> None:
    await attempt(api.cluster.create("pods", pod()))
    found = api.kinds.at("", "v1", "pods")
    assert found is not None
    place = ResourceTarget(*found, "default", "p")
    await attempt(api.writer.modify(place, lambda old: json_patch(old, operations), WriteOptions()))


@given(raw=st.binary(max_size=60))
def test_protobuf_that_is_none_is_refused(raw: bytes) -> None:
    for body in (raw, b"k8s\x00" + raw, b"k8s\x00\x0a\x0f\x0a\x02v1\x12\x09ConfigMap\x12" + bytes([len(raw)]) + raw):
        try:
            decode(body)
        except StatusError as refusal:
            _check(refusal)
