"""The Kubernetes objects of the control plane: namespace, accounts and roles, the log, the services, the webhook.

`meshlog up` applies them to the devcluster exactly as they would be applied to a cluster; what differs between the
two is in `Profile`. Each service reads its settings from `MESHLOG_*` variables (`shared.settings`).
"""

from __future__ import annotations

from deploy.install.access import roles
from deploy.install.availability import autoscaler, budgets, network_policies
from deploy.install.log import NATS_PORT, log_objects
from deploy.install.profile import Manifest, Profile, labels
from deploy.install.workloads import HTTP_PORT, SERVICES, XDS_PORT, service_objects
from shared.model import LABEL_IGNORE, LABEL_MONITORED_BY

__all__ = ["HTTP_PORT", "LABEL_INJECT_CA", "NATS_PORT", "XDS_PORT", "Manifest", "Profile", "control_plane", "webhook"]

LABEL_INJECT_CA = "meshlog.io/inject-ca"
"""The CA writes the trust bundle into webhook configurations that carry this label."""


def control_plane(profile: Profile) -> list[Manifest]:
    """Every object but Secrets (`deploy.install.secrets`) and the MeshConfig, in an order to apply them in."""
    made = [_namespace(profile), *roles(profile), *log_objects(profile)]
    for service in SERVICES:
        made += service_objects(service, profile)
    return [*made, *budgets(profile), *autoscaler(profile), *network_policies(profile), webhook(profile)]


def webhook(profile: Profile) -> Manifest:
    """The mutating webhook: fails closed, for pods of member namespaces only."""
    return {
        "apiVersion": "admissionregistration.k8s.io/v1",
        "kind": "MutatingWebhookConfiguration",
        "metadata": {
            "name": f"meshlog-webhook-{profile.mesh_name}",
            "labels": {LABEL_INJECT_CA: "true", **labels("meshlog-injector", profile)},
        },
        "webhooks": [
            {
                "name": "inject.meshlog.io",
                "admissionReviewVersions": ["v1"],
                "sideEffects": "None",
                "failurePolicy": "Fail",
                "timeoutSeconds": 10,
                "clientConfig": {
                    "service": {
                        "name": "meshlog-injector",
                        "namespace": profile.namespace,
                        "path": "/mutate-pod-creation",
                        "port": 443,
                    }
                },
                "namespaceSelector": {
                    "matchExpressions": [
                        {"key": LABEL_MONITORED_BY, "operator": "In", "values": [profile.mesh_name]},
                        {"key": LABEL_IGNORE, "operator": "DoesNotExist"},
                    ]
                },
                "rules": [{"apiGroups": [""], "apiVersions": ["v1"], "operations": ["CREATE"], "resources": ["pods"]}],
            }
        ],
    }


def _namespace(profile: Profile) -> Manifest:
    return {
        "apiVersion": "v1",
        "kind": "Namespace",
        "metadata": {"name": profile.namespace, "labels": {LABEL_IGNORE: "true", **labels("meshlog", profile)}},
    }
