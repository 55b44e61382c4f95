"""Which pods get a sidecar (`osm.md` 1.1)."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from services.injector.core.decision import NamespaceMeta, decide
from shared.errors import BadInputError
from shared.projected_objects import ANNOTATION_INJECTION, LABEL_IGNORE, LABEL_MONITORED_BY
from tests.unit.injector.pods import MEMBER, pod


def verdict(made: dict[str, Any], namespace: NamespaceMeta = MEMBER) -> bool:
    return decide(made, namespace, mesh_name="meshlog", mesh_namespace="meshlog-system").inject


def wishing(word: str) -> dict[str, Any]:
    return pod(**{ANNOTATION_INJECTION: word})


QUIET = msgspec.structs.replace(MEMBER, annotations={})


@pytest.mark.parametrize(
    ("made", "namespace", "expected"),
    [
        (pod(), MEMBER, True),
        (pod(), QUIET, False),
        (wishing("enabled"), QUIET, True),
        (wishing("YES"), QUIET, True),
        (wishing("True"), QUIET, True),
        (wishing("disabled"), MEMBER, False),
        (wishing("no"), MEMBER, False),
        (wishing("FALSE"), MEMBER, False),
        (wishing("enabled"), NamespaceMeta(name="other"), False),
        (wishing("enabled"), NamespaceMeta(name="shop", labels={LABEL_MONITORED_BY: "osm"}), False),
        (pod(), msgspec.structs.replace(MEMBER, labels={**MEMBER.labels, LABEL_IGNORE: "true"}), False),
        (pod(), msgspec.structs.replace(MEMBER, name="kube-system"), False),
        (pod(), msgspec.structs.replace(MEMBER, name="kube-public"), False),
        (pod(), msgspec.structs.replace(MEMBER, name="meshlog-system"), False),
    ],
)
def test_a_pod_gets_a_sidecar_if_its_namespace_is_a_member_and_one_of_both_asks(
    made: dict[str, Any],
    namespace: NamespaceMeta,
    expected: bool,  # noqa: FBT001 (a column of the table)
) -> None:
    assert verdict(made, namespace) is expected


_WINDOWS_TERM = {"matchExpressions": [{"key": "kubernetes.io/os", "operator": "In", "values": ["windows"]}]}
_LINUX_TERM = {"matchExpressions": [{"key": "kubernetes.io/os", "operator": "In", "values": ["linux"]}]}


def _affinity(*terms: Any) -> dict[str, Any]:
    required = {"nodeSelectorTerms": list(terms)}
    return {"affinity": {"nodeAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": required}}}


@pytest.mark.parametrize(
    ("spec", "why"),
    [
        ({"hostNetwork": True}, "the host's network"),
        ({"os": {"name": "windows"}}, "Windows"),
        ({"nodeSelector": {"kubernetes.io/os": "windows"}}, "Windows"),
        ({"nodeSelector": {"beta.kubernetes.io/os": "windows"}}, "Windows"),
        (_affinity(_WINDOWS_TERM), "Windows"),
        ({"securityContext": {"windowsOptions": {"hostProcess": True}}}, "Windows"),
    ],
)
@pytest.mark.parametrize("wish", [None, "enabled"])
def test_a_pod_where_no_sidecar_can_run_gets_none_and_its_author_is_told(
    spec: dict[str, Any], why: str, wish: str | None
) -> None:
    made = pod() if wish is None else wishing(wish)
    made["spec"] |= spec
    found = decide(made, MEMBER, mesh_name="meshlog", mesh_namespace="meshlog-system")
    assert not found.inject
    assert why in found.warning
    made["metadata"]["annotations"] = {ANNOTATION_INJECTION: "disabled"}
    assert not decide(made, MEMBER, mesh_name="meshlog", mesh_namespace="meshlog-system").warning


@pytest.mark.parametrize(
    "spec",
    [
        {"os": {"name": "linux"}, "nodeSelector": {"kubernetes.io/os": "windows"}},
        {"nodeSelector": {"kubernetes.io/os": "linux"}},
        _affinity(_WINDOWS_TERM, _LINUX_TERM),
        _affinity(),
        {"os": "windows", "affinity": [], "nodeSelector": None},
    ],
)
def test_a_pod_that_may_run_on_linux_gets_its_sidecar(spec: dict[str, Any]) -> None:
    made = pod()
    made["spec"] |= spec
    assert verdict(made) is True


@pytest.mark.parametrize("word", ["", "maybe", "1", "enabled "[:-2]])
def test_an_annotation_that_is_neither_yes_nor_no_is_refused_with_a_sentence(word: str) -> None:
    with pytest.raises(BadInputError, match="use enabled or disabled"):
        verdict(wishing(word))
