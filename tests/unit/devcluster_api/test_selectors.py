"""Label and field selectors."""

from __future__ import annotations

import pytest

from deploy.devcluster.apiserver.selectors import field_selector, label_selector, structured_selector
from deploy.devcluster.apiserver.status_errors import StatusError

OBJ = {"metadata": {"name": "n", "labels": {"a": "1", "b.c/d": "2", "e": ""}}, "status": {"phase": "Running"}}


@pytest.mark.parametrize(
    ("text", "selected"),
    [
        ("", True), ("a=1", True), ("a==1", True), ("a=2", False), ("a!=2", True), ("z!=2", True), ("a", True),
        ("!a", False), ("!z", True), ("b.c/d in (2,3)", True), ("a notin (1)", False), ("z notin (1)", True),
        ("a=1,b.c/d=2", True), ("a in (1, 2),e=", True), ("a=1,z", False), ("a=", False),
    ],
)  # fmt: skip
def test_label_selectors(text: str, selected: bool) -> None:  # noqa: FBT001
    test = label_selector(text)
    assert (test is None or test(OBJ)) is selected


@pytest.mark.parametrize("text", ["a=1=2", "a in 1", "(a)", "a in (1", "=x", "a,,b"])
def test_what_is_no_label_selector_is_refused(text: str) -> None:
    with pytest.raises(StatusError) as refusal:
        label_selector(text)
    assert refusal.value.status == 400


def test_field_selectors() -> None:
    for text, selected in (("metadata.name=n", True), ("metadata.name!=n", False), ("status.phase=Running", True)):
        test = field_selector("pods", text)
        assert test is not None
        assert test(OBJ) is selected
    assert field_selector("pods", "") is None


def test_a_field_that_may_not_be_selected_by_is_refused() -> None:
    with pytest.raises(StatusError, match=r'field label not supported: "spec\.replicas"'):
        field_selector("pods", "spec.replicas=1")


def test_an_empty_structured_selector_selects_everything() -> None:
    assert structured_selector({})({})
    assert structured_selector(None)({"a": "b"})
    expression = {"matchExpressions": [{"key": "a", "operator": "In", "values": ["b"]}]}
    assert structured_selector(expression)({"a": "b"})
    assert not structured_selector(expression)({})
