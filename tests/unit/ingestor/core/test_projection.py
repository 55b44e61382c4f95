"""What of an object becomes an event, and what does not."""

from __future__ import annotations

import json
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.ingestor.core.observations import ChangeSetMembership, NamespacedName
from services.ingestor.core.projection import UnreadableObjectError, parse_change_set, project
from shared import projected_objects
from tests.unit.ingestor.objects import encoded, pod, projected


def decoded(body: bytes, kind: str) -> Any:
    return msgspec.json.decode(body, type=projected_objects.KINDS[kind])


def test_heartbeats_conditions_and_managed_fields_make_no_difference() -> None:
    noisy = pod(rv=8)
    noisy["status"]["conditions"][0]["lastHeartbeatTime"] = "2026-01-01T00:00:10Z"
    noisy["metadata"]["managedFields"] = []
    noisy["metadata"]["annotations"]["example.com/touched"] = "now"
    assert project("Pod", encoded(noisy), api_version="v1", source="watch").digest == projected().digest


def test_a_new_address_makes_a_difference() -> None:
    assert projected(ip="10.244.0.10").digest != projected().digest


def test_only_the_meshs_annotations_are_kept_and_the_change_set_is_not_one() -> None:
    item = projected(annotations={"meshlog.io/change-set": "a/2", "meshlog.io/sidecar": "b1", "x.io/y": "z"})
    assert decoded(item.body, "Pod").metadata.annotations == {"meshlog.io/sidecar": "b1"}
    assert item.change_set == ChangeSetMembership(id="a", size=2)
    assert item.origin.change_set == "a"


def test_the_origin_is_the_newest_manager_that_is_not_about_status() -> None:
    assert projected().origin.manager == "kubectl"
    assert projected().origin.time == "2026-01-01T00:00:00Z"


def test_an_early_smi_object_finds_its_fields_in_spec() -> None:
    early = {
        "apiVersion": "specs.smi-spec.io/v1alpha1",
        "kind": "HTTPRouteGroup",
        "metadata": {"name": "routes", "namespace": "shop", "uid": "u", "resourceVersion": "3"},
        "matches": [{"name": "all", "pathRegex": ".*"}],
    }
    item = project("HTTPRouteGroup", encoded(early), api_version="", source="list")
    assert decoded(item.body, "HTTPRouteGroup").spec == {"matches": [{"name": "all", "pathRegex": ".*"}]}
    assert item.api_version == "specs.smi-spec.io/v1alpha1"


def test_nulls_that_go_writes_for_empty_lists_are_read() -> None:
    piece = {"metadata": {"name": "s", "namespace": "shop", "labels": None}, "endpoints": None, "ports": None}
    item = project("EndpointSlice", encoded(piece), api_version="discovery.k8s.io/v1", source="list")
    assert decoded(item.body, "EndpointSlice").endpoints == []


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("a/2", ChangeSetMembership("a", 2)),
        ("a/b/3", ChangeSetMembership("a/b", 3)),
        ("a/1", None),
        ("a/0", None),
        ("/2", None),
        ("a", None),
        ("a/x", None),
        ("a/-2", None),
        ("a/²", None),
        ("a/999999999999", None),
        ("a/shop=2", ChangeSetMembership("a", 2, (("shop", 2),))),
        ("a/stock=1,shop=2,=1", ChangeSetMembership("a", 4, (("", 1), ("shop", 2), ("stock", 1)))),
        ("a/shop=1", None),
        ("a/shop=0,stock=2", None),
        ("a/shop=2,shop=1", None),
        ("a/shop=2,", None),
        ("a/shop=-2,stock=5", None),
        ("a/shop=x,stock=5", None),
        ("a/" + ",".join(f"n{number}=1" for number in range(513)), None),
        ("x" * 254 + "/2", None),
    ],
)
def test_a_change_set_annotation_is_an_id_and_sizes_or_nothing(text: str, expected: ChangeSetMembership | None) -> None:
    assert parse_change_set(text) == expected


def test_an_unreadable_object_is_named() -> None:
    broken = pod()
    broken["spec"]["containers"] = "none"
    with pytest.raises(UnreadableObjectError) as caught:
        project("Pod", encoded(broken), api_version="v1", source="list")
    assert caught.value.name == NamespacedName("shop", "web-1")


@pytest.mark.parametrize("payload", [b"", b"[]", b'{"metadata":{"name":"\xff"}}', b'{"a":' * 5000 + b"1" + b"}" * 5000])
def test_bytes_that_are_no_object_raise_nothing_else(payload: bytes) -> None:
    with pytest.raises(UnreadableObjectError):
        project("TrafficSplit", payload, api_version="", source="list")


@given(
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.text(), lambda c: st.lists(c) | st.dictionaries(st.text(), c)
    )
)
def test_any_spec_of_a_policy_object_is_kept_as_it_was_written(value: Any) -> None:
    written = {"metadata": {"name": "x"}, "spec": {"field": value}}
    try:
        payload = json.dumps(written).encode()
        item = project("TrafficSplit", payload, api_version="v", source="list")
    except (UnicodeEncodeError, UnreadableObjectError):
        return  # lone surrogates; integers beyond 64 bits are msgspec's affair
    assert decoded(item.body, "TrafficSplit").spec == {"field": value}
