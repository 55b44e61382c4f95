"""The Kubernetes objects of the control plane: namespace, accounts and roles, the log, the services, the webhooks.

`meshlog up` applies them to the devcluster exactly as they would be applied to a cluster; what differs between the
two is in `Profile`. Each service reads its settings from `MESHLOG_*` variables (`shared.service.settings`).
"""

from __future__ import annotations

from deploy.install.availability import autoscaler, budgets, network_policies
from deploy.install.nats_objects import log_objects
from deploy.install.profile import Manifest, Profile, labels
from deploy.install.roles import roles
from deploy.install.service_workloads import SERVICES, service_objects
from deploy.install.webhooks import validator, webhook
from shared.names import HTTP_PORT, LABEL_INJECT_CA, NATS_PORT, XDS_PORT
from shared.projected_objects import LABEL_IGNORE

__all__ = ["HTTP_PORT", "LABEL_INJECT_CA", "NATS_PORT", "XDS_PORT", "Manifest", "Profile", "control_plane", "webhook"]


def control_plane(profile: Profile) -> list[Manifest]:
    """Every object but Secrets (`deploy.install.secrets`) and the MeshConfig, in an order to apply them in."""
    made = [_namespace(profile), *roles(profile), *log_objects(profile)]
    for service in SERVICES:
        made += service_objects(service, profile)
    return [
        *made,
        *budgets(profile),
        *autoscaler(profile),
        *network_policies(profile),
        webhook(profile),
        validator(profile),
    ]


def _namespace(profile: Profile) -> Manifest:
    return {
        "apiVersion": "v1",
        "kind": "Namespace",
        "metadata": {"name": profile.namespace, "labels": {LABEL_IGNORE: "true", **labels("meshlog", profile)}},
    }
