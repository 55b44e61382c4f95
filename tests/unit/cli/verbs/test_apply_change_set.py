"""What `meshlog apply` marks as one change set."""

from __future__ import annotations

from typing import Any

from cli.verbs.embedded.apply import mark_together
from shared.projected_objects import ANNOTATION_CHANGE_SET


def manifest(kind: str, name: str, namespace: str = "") -> dict[str, Any]:
    return {"kind": kind, "metadata": {"name": name, **({"namespace": namespace} if namespace else {})}}


def marks(*manifests: dict[str, Any]) -> dict[str, str]:
    """Kind → the mark of each object, without the set's id; empty: none."""
    mark_together(list(manifests))
    return {
        one["kind"]: one["metadata"].get("annotations", {}).get(ANNOTATION_CHANGE_SET, "").partition("/")[2]
        for one in manifests
    }


def test_a_namespace_is_no_part_of_a_set_whose_pods_wait_for_it() -> None:
    found = marks(
        manifest("Namespace", "hello"),
        manifest("ServiceAccount", "server", "hello"),
        manifest("Deployment", "server", "hello"),
        manifest("Service", "server", "hello"),
        manifest("Pod", "client"),
    )
    both = "default=1,hello=2"
    assert found == {"Namespace": "", "ServiceAccount": both, "Deployment": "", "Service": both, "Pod": both}


def test_one_object_beside_its_namespace_is_no_set() -> None:
    assert marks(manifest("Namespace", "hello"), manifest("Pod", "client", "hello")) == {"Namespace": "", "Pod": ""}
