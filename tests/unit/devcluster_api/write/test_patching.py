"""The three kinds of patch."""

from __future__ import annotations

import contextlib
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from deploy.devcluster.apiserver.kinds.builtin_schemas import shapes
from deploy.devcluster.apiserver.kinds.schema import clone
from deploy.devcluster.apiserver.status_errors import StatusError
from deploy.devcluster.apiserver.write.patching import json_patch, merge, strategic

JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-5, 5) | st.text("ab/~", max_size=3),
    lambda below: st.lists(below, max_size=3) | st.dictionaries(st.text("ab/~0", max_size=2), below, max_size=3),
    max_leaves=8,
)


# The table of RFC 7386, appendix A.
@pytest.mark.parametrize(
    ("document", "patch", "result"),
    [
        ({"a": "b"}, {"a": "c"}, {"a": "c"}),
        ({"a": "b"}, {"b": "c"}, {"a": "b", "b": "c"}),
        ({"a": "b"}, {"a": None}, {}),
        ({"a": "b", "b": "c"}, {"a": None}, {"b": "c"}),
        ({"a": ["b"]}, {"a": "c"}, {"a": "c"}),
        ({"a": "c"}, {"a": ["b"]}, {"a": ["b"]}),
        ({"a": {"b": "c"}}, {"a": {"b": "d", "c": None}}, {"a": {"b": "d"}}),
        ({"a": [{"b": "c"}]}, {"a": [1]}, {"a": [1]}),
        (["a", "b"], ["c", "d"], ["c", "d"]),
        ({"a": "b"}, ["c"], ["c"]),
        ({"a": "foo"}, None, None),
        ({"e": None}, {"a": 1}, {"e": None, "a": 1}),
        ([1, 2], {"a": "b", "c": None}, {"a": "b"}),
        ({}, {"a": {"bb": {"ccc": None}}}, {"a": {"bb": {}}}),
    ],
)
def test_merge_follows_the_table_of_rfc_7386(document: Any, patch: Any, result: Any) -> None:
    assert merge(document, patch) == result


@pytest.mark.parametrize(
    ("document", "operations", "result"),
    [
        ({"a": 1}, [{"op": "add", "path": "/b", "value": 2}], {"a": 1, "b": 2}),
        ({"a": [1, 3]}, [{"op": "add", "path": "/a/1", "value": 2}], {"a": [1, 2, 3]}),
        ({"a": [1]}, [{"op": "add", "path": "/a/-", "value": 2}], {"a": [1, 2]}),
        ({"a": 1}, [{"op": "remove", "path": "/a"}], {}),
        ({"a": [1, 2]}, [{"op": "replace", "path": "/a/0", "value": 5}], {"a": [5, 2]}),
        ({"a": {"b": 1}}, [{"op": "move", "from": "/a/b", "path": "/c"}], {"a": {}, "c": 1}),
        ({"a": {"b": 1}}, [{"op": "copy", "from": "/a", "path": "/c"}], {"a": {"b": 1}, "c": {"b": 1}}),
        ({"a/b": 1, "m~n": 2}, [{"op": "test", "path": "/a~1b", "value": 1}], {"a/b": 1, "m~n": 2}),
        ({"a": 1}, [{"op": "replace", "path": "", "value": [1]}], [1]),
    ],
)
def test_json_patch_follows_rfc_6902(document: Any, operations: Any, result: Any) -> None:
    assert json_patch(document, operations) == result


@pytest.mark.parametrize(
    ("operations", "status"),
    [
        ({}, 400),
        ([5], 400),
        ([{"op": "add", "path": 5}], 400),
        ([{"op": "explode", "path": "/a"}], 422),
        ([{"op": "remove", "path": "/nothing"}], 422),
        ([{"op": "replace", "path": "/l/01", "value": 1}], 422),
        ([{"op": "add", "path": "/l/9", "value": 1}], 422),
        ([{"op": "add", "path": "a", "value": 1}], 422),
        ([{"op": "test", "path": "/a", "value": 2}], 422),
        ([{"op": "move", "from": "/o", "path": "/o/x"}], 422),
        ([{"op": "add", "path": "/a/b", "value": 1}], 422),
    ],
)
def test_a_json_patch_that_does_not_fit_is_refused(operations: Any, status: int) -> None:
    with pytest.raises(StatusError) as refusal:
        json_patch({"a": 1, "l": [1], "o": {}}, operations)
    assert refusal.value.status == status


OPERATIONS = st.fixed_dictionaries(
    {
        "op": st.sampled_from(["add", "remove", "replace", "move", "copy", "test"]),
        "path": st.text("ab/~01-", max_size=5),
        "from": st.text("ab/~01", max_size=4),
        "value": JSON,
    }
)


@given(document=JSON, operations=st.lists(OPERATIONS, max_size=4))
def test_json_patch_either_patches_or_refuses_and_never_touches_its_input(document: Any, operations: Any) -> None:
    before = clone(document)
    with contextlib.suppress(StatusError):
        json_patch(document, operations)
    assert document == before


def pod_spec(**fields: Any) -> dict[str, Any]:
    return {"spec": {"containers": [{"name": "a", "image": "1"}, {"name": "b", "image": "2"}], **fields}}


def patched(document: Any, patch: Any) -> Any:
    return strategic(document, patch, shapes()["Pod"])


def test_strategic_merge_joins_containers_by_name() -> None:
    made = patched(pod_spec(), {"spec": {"containers": [{"name": "b", "image": "3"}, {"name": "c", "image": "4"}]}})
    assert [(one["name"], one["image"]) for one in made["spec"]["containers"]] == [("a", "1"), ("b", "3"), ("c", "4")]


def test_strategic_merge_deletes_and_replaces_by_directive() -> None:
    made = patched(pod_spec(), {"spec": {"containers": [{"name": "a", "$patch": "delete"}]}})
    assert [one["name"] for one in made["spec"]["containers"]] == ["b"]
    made = patched(pod_spec(), {"spec": {"containers": [{"$patch": "replace"}, {"name": "z", "image": "9"}]}})
    assert [one["name"] for one in made["spec"]["containers"]] == ["z"]
    made = patched(pod_spec(hostNetwork=True), {"spec": {"$patch": "replace", "hostname": "h"}})
    assert made == {"spec": {"hostname": "h"}}


def test_strategic_merge_orders_a_list_as_told() -> None:
    order = {"$setElementOrder/containers": [{"name": "b"}, {"name": "c"}, {"name": "a"}]}
    made = patched(pod_spec(), {"spec": {"containers": [{"name": "c", "image": "4"}], **order}})
    assert [one["name"] for one in made["spec"]["containers"]] == ["b", "c", "a"]


def test_strategic_merge_replaces_lists_that_have_no_key() -> None:
    document = pod_spec(tolerations=[{"key": "a"}])
    assert patched(document, {"spec": {"tolerations": [{"key": "b"}]}})["spec"]["tolerations"] == [{"key": "b"}]


def test_strategic_merge_joins_and_deletes_primitives() -> None:
    document = {"metadata": {"finalizers": ["a/1", "a/2"]}}
    made = patched(document, {"metadata": {"finalizers": ["a/3"], "$deleteFromPrimitiveList/finalizers": ["a/1"]}})
    assert made["metadata"]["finalizers"] == ["a/2", "a/3"]


def test_strategic_merge_retains_only_the_keys_it_is_told_to() -> None:
    strategy = {"type": "RollingUpdate", "rollingUpdate": {"maxSurge": 1}}
    patch = {"spec": {"strategy": {"$retainKeys": ["type"], "type": "Recreate"}}}
    made = strategic({"spec": {"strategy": strategy}}, patch, shapes()["Deployment"])
    assert made["spec"]["strategy"] == {"type": "Recreate"}


def test_strategic_merge_refuses_an_item_without_its_key() -> None:
    with pytest.raises(StatusError, match="does not contain declared merge key: name"):
        patched(pod_spec(), {"spec": {"containers": [{"image": "x"}]}})
