"""A container's environment and command line, by Kubernetes' rules."""

from __future__ import annotations

import base64

import pytest

from deploy.devcluster.cluster_api import Obj
from deploy.devcluster.kubelet.container.environment import (
    UnresolvedError,
    command_line,
    expand,
    field,
    resolve,
)

POD: Obj = {
    "metadata": {
        "name": "web-0",
        "namespace": "shop",
        "uid": "u1",
        "labels": {"app.kubernetes.io/name": "web"},
        "annotations": {"note": 'say "hi"\nthere'},
    },
    "spec": {
        "nodeName": "devcluster",
        "serviceAccountName": "buyer",
        "containers": [
            {"name": "main", "resources": {"limits": {"cpu": "1500m", "memory": "64Mi"}, "requests": {"cpu": "250m"}}}
        ],
    },
    "status": {"podIP": "10.244.0.5", "podIPs": [{"ip": "10.244.0.5"}], "hostIP": "10.244.0.1"},
}
OBJECTS: dict[tuple[str, str], Obj] = {
    ("configmaps", "settings"): {"data": {"COLOR": "green", "SIZE": "9"}},
    ("secrets", "keys"): {"data": {"password": base64.b64encode(b"hush").decode()}},
}


def resolved(**container: object) -> dict[str, str]:
    return resolve({"name": "main"} | container, POD, {"PATH": "/bin"}, lambda kind, name: OBJECTS.get((kind, name)))


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("$(A)-$(B)", "1-$(B)"),
        ("$$(A) $$$(A)", "$(A) $1"),
        ("$A $ $(", "$A $ $("),
        ("", ""),
    ],
)
def test_references_are_replaced_and_dollars_escaped(text: str, expected: str) -> None:
    assert expand(text, {"A": "1"}) == expected


def test_later_sources_win_and_earlier_ones_can_be_referred_to() -> None:
    environment = resolved(
        envFrom=[{"prefix": "P_", "configMapRef": {"name": "settings"}}, {"secretRef": {"name": "keys"}}],
        env=[
            {"name": "P_COLOR", "value": "red"},
            {"name": "BOTH", "value": "$(P_COLOR) $(P_SIZE) $(password) $(PATH) $(LATER)"},
            {"name": "LATER", "value": "x"},
        ],
    )
    assert environment["BOTH"] == "red 9 hush /bin $(LATER)"


@pytest.mark.parametrize(
    ("path", "expected"),
    [
        ("metadata.name", "web-0"),
        ("metadata.namespace", "shop"),
        ("metadata.uid", "u1"),
        ("metadata.labels['app.kubernetes.io/name']", "web"),
        ("metadata.annotations['absent']", ""),
        ("metadata.annotations", 'note="say \\"hi\\"\\nthere"'),
        ("spec.nodeName", "devcluster"),
        ("spec.serviceAccountName", "buyer"),
        ("status.podIP", "10.244.0.5"),
        ("status.podIPs", "10.244.0.5"),
        ("status.hostIP", "10.244.0.1"),
    ],
)
def test_the_downward_api_tells_fields(path: str, expected: str) -> None:
    assert field(POD, path) == expected


def test_resources_are_told_in_units_of_their_divisor_rounded_up() -> None:
    def amount(resource: str, divisor: str = "") -> str:
        reference = {"resource": resource} | ({"divisor": divisor} if divisor else {})
        return resolved(env=[{"name": "X", "valueFrom": {"resourceFieldRef": reference}}])["X"]

    assert amount("limits.cpu") == "2"
    assert amount("limits.memory", "1Mi") == "64"
    assert amount("requests.cpu", "1m") == "250"


@pytest.mark.parametrize(
    ("source", "sentence"),
    [
        ({"configMapKeyRef": {"name": "absent", "key": "x"}}, 'configmap "absent" not found'),
        ({"secretKeyRef": {"name": "keys", "key": "absent"}}, "couldn't find key absent in secret keys"),
        ({"fieldRef": {"fieldPath": "spec.hostNetwork"}}, "no field `spec.hostNetwork`"),
    ],
)
def test_what_is_missing_is_named(source: Obj, sentence: str) -> None:
    with pytest.raises(UnresolvedError, match=sentence):
        resolved(env=[{"name": "X", "valueFrom": source}])


def test_what_is_optional_may_be_missing() -> None:
    optional = {"configMapKeyRef": {"name": "absent", "key": "x", "optional": True}}
    assert "X" not in resolved(env=[{"name": "X", "valueFrom": optional}])


def test_command_and_arguments_are_expanded() -> None:
    container = {"name": "main", "command": ["run", "$(A)"], "args": ["--b=$(B)", "$$(A)"]}
    assert command_line(container, {"A": "1", "B": "2"}) == ["run", "1", "--b=2", "$(A)"]
