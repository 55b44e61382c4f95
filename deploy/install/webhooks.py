"""The two admission webhooks, both served by the injector; the CA keeps their trust bundle current.

The one that gives pods their sidecar fails closed: a pod without it would be outside of the mesh. The one that judges
policy fails open: what slips through while no injector runs is left out by the compiler and named in its status.
"""

from __future__ import annotations

from typing import Any

from deploy.install.profile import Manifest, Profile, labels
from shared.membership import match_expressions
from shared.names import INJECTOR, LABEL_INJECT_CA, mutating_webhook, validating_webhook

_POLICY_GROUPS = ["access.smi-spec.io", "policy.openservicemesh.io", "specs.smi-spec.io", "split.smi-spec.io"]


def webhook(profile: Profile) -> Manifest:
    """The mutating webhook: for pods of member namespaces only."""
    rule = {"apiGroups": [""], "apiVersions": ["v1"], "operations": ["CREATE"], "resources": ["pods"]}
    one = _webhook("inject.meshlog.io", "/mutate-pod-creation", profile) | {
        "failurePolicy": "Fail",
        "timeoutSeconds": 10,
        "namespaceSelector": _members(profile),
        "rules": [rule],
    }
    return _configuration("Mutating", mutating_webhook(profile.mesh_name), [one], profile)


def validator(profile: Profile) -> Manifest:
    """The validating webhook: policy of member namespaces, and the mesh's own configuration."""

    def rule(groups: list[str], resources: list[str], *more: str) -> dict[str, Any]:
        operations = ["CREATE", "UPDATE", *more]
        return {"apiGroups": groups, "apiVersions": ["*"], "operations": operations, "resources": resources}

    open_end = {"failurePolicy": "Ignore", "timeoutSeconds": 5}
    policy = _webhook("policy.meshlog.io", "/validate-policy", profile) | open_end
    configuration = _webhook("config.meshlog.io", "/validate-policy", profile) | open_end
    # An ephemeral container may not run as the proxy's user either. Open, so that a pod can be debugged in any case.
    debug = _webhook("debug.meshlog.io", "/mutate-pod-creation", profile) | open_end
    added = {
        "apiGroups": [""],
        "apiVersions": ["v1"],
        "operations": ["UPDATE"],
        "resources": ["pods/ephemeralcontainers"],
    }
    home = {"matchLabels": {"kubernetes.io/metadata.name": profile.namespace}}
    return _configuration(
        "Validating",
        validating_webhook(profile.mesh_name),
        [
            policy | {"namespaceSelector": _members(profile), "rules": [rule(_POLICY_GROUPS, ["*"])]},
            # A deletion is let through, with a word on what is in force then.
            configuration
            | {
                "namespaceSelector": home,
                "rules": [
                    rule(["config.openservicemesh.io"], ["meshconfigs"], "DELETE"),
                    rule(["config.openservicemesh.io"], ["meshrootcertificates"]),
                ],
            },
            debug | {"namespaceSelector": _members(profile), "rules": [added]},
        ],
        profile,
    )


def _webhook(name: str, path: str, profile: Profile) -> dict[str, Any]:
    service = {"name": INJECTOR, "namespace": profile.namespace, "path": path, "port": 443}
    return {
        "name": name,
        "admissionReviewVersions": ["v1"],
        "sideEffects": "None",
        "clientConfig": {"service": service},
    }


def _members(profile: Profile) -> dict[str, Any]:
    return {"matchExpressions": match_expressions(profile.mesh_name)}


def _configuration(which: str, name: str, webhooks: list[dict[str, Any]], profile: Profile) -> Manifest:
    return {
        "apiVersion": "admissionregistration.k8s.io/v1",
        "kind": f"{which}WebhookConfiguration",
        "metadata": {"name": name, "labels": {LABEL_INJECT_CA: "true", **labels(INJECTOR, profile)}},
        "webhooks": webhooks,
    }
