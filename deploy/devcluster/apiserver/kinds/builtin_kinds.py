"""The table of built-in kinds."""

from __future__ import annotations

from deploy.devcluster.apiserver.kinds import printer_columns
from deploy.devcluster.apiserver.kinds.builtin_schemas import shapes
from deploy.devcluster.apiserver.kinds.kind_registry import KindVersion, ResourceKind, ScalePaths

_REPLICAS = ScalePaths(".spec.replicas", ".status.replicas", ".status.selector")


def _kind(
    group: str,
    name: str,
    plural: str,
    short: str = "",
    *,
    namespaced: bool = True,
    status: bool = False,
    scale: bool = False,
    generation: bool = False,
    everything: bool = False,
    shape: str = "",
    version: str = "v1",
) -> ResourceKind:
    resource = f"{plural}.{group}" if group else plural
    return ResourceKind(
        group=group,
        kind=name,
        plural=plural,
        singular=name.lower(),
        versions=(
            KindVersion(
                version, shapes()[shape or name], printer_columns.BUILT_IN.get(resource, printer_columns.DEFAULT)
            ),
        ),
        namespaced=namespaced,
        short_names=tuple(short.split()),
        categories=("all",) if everything else (),
        status=status,
        scale=_REPLICAS if scale else None,
        generation=generation,
    )


def built_in() -> tuple[ResourceKind, ...]:
    """All built-in kinds, in the order of discovery."""
    hooks, rbac = "admissionregistration.k8s.io", "rbac.authorization.k8s.io"
    return (
        _kind("", "Namespace", "namespaces", "ns", namespaced=False, status=True),
        _kind("", "Node", "nodes", "no", namespaced=False, status=True),
        _kind("", "ServiceAccount", "serviceaccounts", "sa"),
        _kind("", "Service", "services", "svc", status=True, everything=True),
        _kind("", "Endpoints", "endpoints", "ep"),
        _kind("", "Pod", "pods", "po", status=True, generation=True, everything=True),
        _kind("", "Event", "events", "ev"),
        _kind("", "ConfigMap", "configmaps", "cm"),
        _kind("", "Secret", "secrets"),
        _kind("", "PersistentVolumeClaim", "persistentvolumeclaims", "pvc", status=True),
        _kind("apps", "Deployment", "deployments", "deploy", status=True, scale=True, generation=True, everything=True),
        _kind("apps", "ReplicaSet", "replicasets", "rs", status=True, scale=True, generation=True, everything=True),
        _kind("apps", "StatefulSet", "statefulsets", "sts", status=True, scale=True, generation=True, everything=True),
        _kind("discovery.k8s.io", "EndpointSlice", "endpointslices", generation=True),
        _kind("coordination.k8s.io", "Lease", "leases"),
        _kind("policy", "PodDisruptionBudget", "poddisruptionbudgets", "pdb", status=True, generation=True),
        _kind(
            "apiextensions.k8s.io",
            "CustomResourceDefinition",
            "customresourcedefinitions",
            "crd crds",
            namespaced=False,
            status=True,
            generation=True,
        ),
        _kind(
            hooks, "MutatingWebhookConfiguration", "mutatingwebhookconfigurations", namespaced=False, generation=True
        ),
        _kind(
            hooks,
            "ValidatingWebhookConfiguration",
            "validatingwebhookconfigurations",
            namespaced=False,
            generation=True,
        ),
        # Stored without effect: there is one node, and every pod may reach every other pod.
        _kind("autoscaling", "HorizontalPodAutoscaler", "horizontalpodautoscalers", "hpa", status=True, version="v2"),
        _kind("networking.k8s.io", "NetworkPolicy", "networkpolicies", "netpol", generation=True),
        _kind(rbac, "Role", "roles"),
        _kind(rbac, "RoleBinding", "rolebindings"),
        _kind(rbac, "ClusterRole", "clusterroles", namespaced=False),
        _kind(rbac, "ClusterRoleBinding", "clusterrolebindings", namespaced=False),
    )
