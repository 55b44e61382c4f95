"""What keeps replicas apart from each other's fate: disruption budgets, the edges' autoscaler, network policies."""

from __future__ import annotations

from typing import Any

from deploy.install.nats_objects import MONITORING_PORT
from deploy.install.profile import Manifest, Profile, metadata
from deploy.install.service_workloads import SERVICES
from deploy.nats import ROUTE_PORT
from shared.names import HTTP_PORT, INJECTOR, NATS_PORT, WEBHOOK_PORT, XDS_EDGE, XDS_PORT


def budgets(profile: Profile) -> list[Manifest]:
    """At most one pod of a kind is away by intent at a time."""
    if not profile.spread:
        return []
    names = [f"meshlog-{service.name}" for service in SERVICES if profile.replicas(service.name) > 1]
    names += ["nats"] if profile.nats_nodes > 1 and not profile.nats_url else []
    return [
        {
            "apiVersion": "policy/v1",
            "kind": "PodDisruptionBudget",
            "metadata": metadata(name, profile),
            "spec": {"maxUnavailable": 1, "selector": {"matchLabels": {"app.kubernetes.io/name": name}}},
        }
        for name in names
    ]


def autoscaler(profile: Profile) -> list[Manifest]:
    """More edges when they work hard; slowly fewer, because each one less makes its proxies connect anew."""
    if not profile.autoscale:
        return []
    name = XDS_EDGE
    return [
        {
            "apiVersion": "autoscaling/v2",
            "kind": "HorizontalPodAutoscaler",
            "metadata": metadata(name, profile),
            "spec": {
                "scaleTargetRef": {"apiVersion": "apps/v1", "kind": "Deployment", "name": name},
                "minReplicas": profile.edges,
                "maxReplicas": profile.autoscale,
                "metrics": [
                    {
                        "type": "Resource",
                        "resource": {"name": "cpu", "target": {"type": "Utilization", "averageUtilization": 70}},
                    }
                ],
                "behavior": {
                    "scaleDown": {
                        "stabilizationWindowSeconds": 600,
                        "policies": [{"type": "Pods", "value": 1, "periodSeconds": 120}],
                    }
                },
            },
        }
    ]


def network_policies(profile: Profile) -> list[Manifest]:
    """The connections that are allowed in the control plane's namespace; all others are refused there."""
    if not profile.network_policies:
        return []
    ours = {"podSelector": {"matchLabels": {"app.kubernetes.io/part-of": "meshlog"}}}
    nats = {"podSelector": {"matchLabels": {"app.kubernetes.io/name": "nats"}}}
    networks = [one.strip() for one in profile.webhook_networks.split(",") if one.strip()]
    webhook = _from(None, WEBHOOK_PORT)
    if networks:
        webhook["from"] = [{"ipBlock": {"cidr": one}} for one in networks]
    every = {"app.kubernetes.io/part-of": "meshlog"}
    made = [
        # Nothing that no other policy names. Probes come from the node, which a policy cannot keep out.
        _policy("meshlog", every, [], profile),
        # From anywhere: sidecars of all namespaces, and the API server (which is no pod).
        _policy(XDS_EDGE, {"app.kubernetes.io/name": XDS_EDGE}, [_from(None, XDS_PORT)], profile),
        _policy(INJECTOR, {"app.kubernetes.io/name": INJECTOR}, [webhook], profile),
    ]
    if not profile.nats_url:
        rules = [_from(ours, NATS_PORT), _from(nats, ROUTE_PORT)]
        made.append(_policy("meshlog-nats", {"app.kubernetes.io/name": "nats"}, rules, profile))
    if profile.metrics_namespace:
        # Metrics show how many clients there are; NATS also shows their names and addresses.
        name = {"kubernetes.io/metadata.name": profile.metrics_namespace}
        scraper = {"namespaceSelector": {"matchLabels": name}}
        made.append(_policy("meshlog-metrics", every, [_from(scraper, HTTP_PORT)], profile))
        if not profile.nats_url:
            rules = [_from(scraper, MONITORING_PORT)]
            made.append(_policy("meshlog-nats-metrics", {"app.kubernetes.io/name": "nats"}, rules, profile))
    return made


def _from(peer: dict[str, Any] | None, port: int) -> dict[str, Any]:
    rule: dict[str, Any] = {"ports": [{"protocol": "TCP", "port": port}]}
    return {**rule, "from": [peer]} if peer else rule


def _policy(name: str, pods: dict[str, str], rules: list[dict[str, Any]], profile: Profile) -> Manifest:
    return {
        "apiVersion": "networking.k8s.io/v1",
        "kind": "NetworkPolicy",
        "metadata": metadata(name, profile),
        "spec": {"podSelector": {"matchLabels": pods}, "policyTypes": ["Ingress"], "ingress": rules},
    }
