"""Who wrote an object that cannot be read is told the field and what was expected there, and nobody is told a value."""

from __future__ import annotations

import json
from typing import Any, Literal

import msgspec
import pytest

from services.compiler.core.offline import compile_events
from services.compiler.mesh_state import MeshSettings
from services.ingestor.core.log_diff import AppliedChange
from services.ingestor.core.projection import UnreadableObjectError, project
from services.ingestor.core.records import draft
from shared.records import events
from shared.records.subjects import Streams
from shared.records.unreadable import MOST, why
from shared.records.withheld import GRANTING
from tests.unit.compiler import objects

CLUSTER = "cluster"
SECRET = "hunter2" * 300
META: dict[str, Any] = {"name": "one", "namespace": "shop", "uid": "u", "resourceVersion": "5"}
POLICY = ("TrafficTarget", "access.smi-spec.io/v1alpha3")
BAD: list[tuple[str, dict[str, Any], str]] = [
    ("TrafficTarget", {"spec": SECRET}, "spec: Expected object, got str"),
    ("TrafficTarget", {"spec": [SECRET]}, "spec: Expected object, got array"),
    (
        "TrafficTarget",
        {"metadata": META | {"annotations": {"a": [SECRET]}}},
        "annotations[...]: Expected str, got array",
    ),
    ("HTTPRouteGroup", {"metadata": META | {"labels": SECRET}}, "metadata.labels: Expected object, got str"),
    ("TrafficSplit", {"spec": 7}, "spec: Expected object, got int"),
    ("MeshConfig", {"spec": SECRET}, "spec: Expected object, got str"),
    ("Service", {"spec": {"ports": [{"port": SECRET}]}}, "spec.ports[0].port: Expected int, got str"),
    ("Service", {"spec": {"selector": {"app": [SECRET]}}}, "spec.selector[...]: Expected str, got array"),
    ("Pod", {"spec": {"containers": SECRET}}, "spec.containers: Expected array, got str"),
    ("Namespace", {"metadata": META | {"labels": {"a": 1}}}, "metadata.labels[...]: Expected str, got int"),
]


class _Chosen(msgspec.Struct):
    mode: Literal["open", "closed"]


def encoded(kind: str, broken: dict[str, Any]) -> bytes:
    return json.dumps({"apiVersion": "x/v1", "kind": kind, "metadata": META, **broken}).encode()


def sentence(kind: str, broken: dict[str, Any]) -> str:
    """What is told of it: as left out by the compiler, if its closed form is written, else by the ingestor."""
    payload = encoded(kind, broken)
    try:
        item = project(kind, payload, api_version=POLICY[1], source="watch")
    except UnreadableObjectError as left_out:
        return left_out.sentence
    assert kind in GRANTING
    written = draft(AppliedChange(item, basis=0), "", cluster=CLUSTER, streams=Streams(), turn="e1")
    event = events.decode(written.payload)
    (out,) = compile_events([objects.namespace("shop"), event], MeshSettings()).quarantine
    assert out.code == "object/unreadable"
    return out.sentence


@pytest.mark.parametrize(("kind", "broken", "reason"), BAD, ids=[f"{kind}: {reason}" for kind, _, reason in BAD])
def test_the_field_and_what_was_expected_are_named_and_no_value(kind: str, broken: dict[str, Any], reason: str) -> None:
    told = sentence(kind, broken)
    assert reason in told
    assert "hunter2" not in told
    assert len(told) < 2 * MOST


@pytest.mark.parametrize(
    ("payload", "reason"),
    [
        (b'{"mode": "hunter2"}', "mode: Invalid enum value"),
        (b'{"mode": "hunter2\' - at `$.x`"}', "mode: Invalid enum value"),
        (b'{"mode": }', "JSON is malformed"),
        (b'{"mode": "\xff"}', "UTF-8"),
        (b"{}", "Object missing required field mode"),
        (b'{"mode":' + b"[" * 100_000, ""),
    ],
)
def test_every_reason_is_short_and_repeats_nothing(payload: bytes, reason: str) -> None:
    with pytest.raises((msgspec.MsgspecError, RecursionError, UnicodeDecodeError)) as refused:
        msgspec.json.decode(payload, type=_Chosen)
    told = why(refused.value)
    assert reason in told
    assert "hunter2" not in told
    assert 0 < len(told) <= MOST


def test_another_reason_is_news_and_the_same_is_none() -> None:
    def digest(spec: Any) -> str:
        return project("TrafficTarget", encoded("TrafficTarget", {"spec": spec}), api_version="", source="watch").digest

    assert digest("abc") == digest("xyz")
    assert digest("abc") != digest([[1]])
    assert digest(12345) != digest("abc")


def test_an_event_without_a_reason_is_as_it_was() -> None:
    """Events of builds that told none, and of objects that can be read, keep their bytes."""
    event = events.Event(1, "c1", "Service", "shop", "web", "u", "5", "applied", object=msgspec.Raw(b"{}"))
    assert b"why" not in events.encode(event)
