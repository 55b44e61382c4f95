"""The ClusterRoles and bindings that every cluster has: administration, discovery, reviews of oneself."""

from __future__ import annotations

from typing import Any

from deploy.devcluster.apiserver.access.authorization import GROUP
from deploy.devcluster.cluster_api import Obj

_LABELS = {"kubernetes.io/bootstrapping": "rbac-defaults"}
_DOCUMENTS = ["/", "/api", "/api/*", "/apis", "/apis/*", "/openapi", "/openapi/*"]
_HEALTH = ["/healthz", "/livez", "/readyz", "/version", "/version/"]
_KEYS = ["/.well-known/openid-configuration", "/openid/v1/jwks"]
_ABOUT_ONESELF = {
    "authorization.k8s.io": ["selfsubjectaccessreviews", "selfsubjectrulesreviews"],
    "authentication.k8s.io": ["selfsubjectreviews"],
}


def default_roles() -> list[tuple[str, Obj]]:
    """(resource, object) of the default roles and bindings of Kubernetes that the devcluster needs."""
    everything: list[dict[str, Any]] = [
        {"apiGroups": ["*"], "resources": ["*"], "verbs": ["*"]},
        {"nonResourceURLs": ["*"], "verbs": ["*"]},
    ]
    oneself: list[dict[str, Any]] = [
        {"apiGroups": [group], "resources": resources, "verbs": ["create"]}
        for group, resources in _ABOUT_ONESELF.items()
    ]
    return [
        *_granted("cluster-admin", everything, "system:masters"),
        *_granted("system:discovery", [_reading([*_DOCUMENTS, *_HEALTH])], "system:authenticated"),
        *_granted("system:basic-user", oneself, "system:authenticated"),
        *_granted("system:service-account-issuer-discovery", [_reading(_KEYS)], "system:serviceaccounts"),
    ]


def _reading(paths: list[str]) -> dict[str, Any]:
    return {"nonResourceURLs": paths, "verbs": ["get"]}


def _granted(name: str, rules: list[dict[str, Any]], group: str) -> list[tuple[str, Obj]]:
    head = {"apiVersion": f"{GROUP}/v1", "metadata": {"name": name, "labels": _LABELS}}
    binding = {
        **head,
        "kind": "ClusterRoleBinding",
        "roleRef": {"apiGroup": GROUP, "kind": "ClusterRole", "name": name},
        "subjects": [{"apiGroup": GROUP, "kind": "Group", "name": group}],
    }
    return [
        (f"clusterroles.{GROUP}", {**head, "kind": "ClusterRole", "rules": rules}),
        (f"clusterrolebindings.{GROUP}", binding),
    ]
