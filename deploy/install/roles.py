"""RBAC of the control plane's services in the Kubernetes API: each role has only the rights that it needs.

Only the ingestor and the CA talk to the API at all; compiler, edges and injector have accounts without any rule, and
their pods are given no token for it. The devcluster enforces these rules as Kubernetes does, and a test names every
rule that no service needed.
"""

from __future__ import annotations

from typing import Any

from deploy.install.profile import Manifest, Profile, labels
from shared.names import CA, CA_SECRET, INGESTOR, TRUST_BUNDLE, mutating_webhook, validating_webhook

RBAC = "rbac.authorization.k8s.io"

_READ = ["list", "watch"]
SMI_KINDS = {
    "access.smi-spec.io": ["identitybindings", "traffictargets"],
    "specs.smi-spec.io": ["httproutegroups", "tcproutes", "udproutes"],
    "split.smi-spec.io": ["trafficsplits"],
}
OSM_POLICY_KINDS = {
    "policy.openservicemesh.io": ["egresses", "ingressbackends", "retries", "telemetries", "upstreamtrafficsettings"],
}


def _rule(groups: list[str], resources: list[str], verbs: list[str], *names: str) -> dict[str, Any]:
    rule: dict[str, Any] = {"apiGroups": groups, "resources": resources, "verbs": verbs}
    return {**rule, "resourceNames": list(names)} if names else rule


def _ingestor_everywhere() -> list[dict[str, Any]]:
    """What it ingests, in all namespaces: a namespace becomes a member by a label, and is in the log by then."""
    custom = {**SMI_KINDS, **OSM_POLICY_KINDS, "config.openservicemesh.io": ["extensionservices"]}
    return [
        _rule([""], ["namespaces", "pods", "serviceaccounts", "services"], _READ),
        _rule(["discovery.k8s.io"], ["endpointslices"], _READ),
        *(_rule([group], resources, _READ) for group, resources in custom.items()),
        # Conditions (accepted, programmed, refused and why) are written back on the mesh's own kinds, and nothing else.
        *(_rule([group], [f"{one}/status" for one in resources], ["patch"]) for group, resources in custom.items()),
        _rule([""], ["events"], ["create"]),
    ]


def _ingestor_at_home() -> list[dict[str, Any]]:
    return [
        _rule(["config.openservicemesh.io"], ["meshconfigs", "meshrootcertificates"], _READ),
        _rule(["config.openservicemesh.io"], ["meshconfigs/status"], ["patch"]),
    ]


def _ca_everywhere(profile: Profile) -> list[dict[str, Any]]:
    hooks = ["mutatingwebhookconfigurations", "validatingwebhookconfigurations"]
    group = ["admissionregistration.k8s.io"]
    rules = [
        # Server-side apply of one ConfigMap by name, in members' namespaces; it can read none.
        _rule([""], ["configmaps"], ["create", "patch"], TRUST_BUNDLE),
        _rule(group, hooks, _READ),
        _rule(group, hooks, ["patch"], mutating_webhook(profile.mesh_name), validating_webhook(profile.mesh_name)),
    ]
    if profile.cluster_trust_bundle:
        bundles = ["clustertrustbundles"]
        # By server-side apply, which creates by name; bundles without a signer need no right to attest.
        rules.append(_rule(["certificates.k8s.io"], bundles, ["create", "patch"], profile.cluster_trust_bundle))
    return rules


def _ca_at_home(profile: Profile) -> list[dict[str, Any]]:
    rules = [
        _rule([""], ["secrets"], ["get", "update"], CA_SECRET),
        # A create has no name that a rule could hold on to.
        _rule([""], ["secrets"], ["create"]),
        # The CA reports how far a root's rotation is.
        _rule(["config.openservicemesh.io"], ["meshrootcertificates/status"], ["patch"]),
    ]
    if profile.cert_manager or profile.ca_provider == "cert-manager":
        rules.append(_rule(["cert-manager.io"], ["certificaterequests"], ["create", "get", "delete"]))
    if profile.vault_secret:
        rules.append(_rule([""], ["secrets"], ["get"], profile.vault_secret))
    if profile.root_secret:
        rules.append(_rule([""], ["secrets"], ["get", "update"], profile.root_secret))
    return rules


def _ca_at_the_gateway(profile: Profile) -> list[Manifest]:
    namespace, _, name = profile.gateway_secret.partition("/")
    if not name:
        return []
    # By server-side apply, which creates by name.
    rules = [_rule([""], ["secrets"], ["create", "patch", "delete"], name)]
    return _role("meshlog-ca-gateway", rules, profile, namespace=namespace, account=CA)


def roles(profile: Profile) -> list[Manifest]:
    """Roles and bindings of every service that has any."""
    return [
        *_cluster_role(INGESTOR, _ingestor_everywhere(), profile),
        *_role(INGESTOR, _ingestor_at_home(), profile),
        *_cluster_role(CA, _ca_everywhere(profile), profile),
        *_role(CA, _ca_at_home(profile), profile),
        *_ca_at_the_gateway(profile),
    ]


def _cluster_role(account: str, rules: list[dict[str, Any]], profile: Profile) -> list[Manifest]:
    # Two meshes in one cluster have their own bindings.
    name = f"{account}-{profile.mesh_name}"
    head = {"apiVersion": f"{RBAC}/v1", "metadata": {"name": name, "labels": labels(account, profile)}}
    return [
        {**head, "kind": "ClusterRole", "rules": rules},
        {**head, "kind": "ClusterRoleBinding", **_binding("ClusterRole", name, account, profile)},
    ]


def _role(
    name: str, rules: list[dict[str, Any]], profile: Profile, *, namespace: str = "", account: str = ""
) -> list[Manifest]:
    """By default in the mesh's namespace, and for the account of the role's name."""
    metadata = {"name": name, "namespace": namespace or profile.namespace, "labels": labels(name, profile)}
    head = {"apiVersion": f"{RBAC}/v1", "metadata": metadata}
    return [
        {**head, "kind": "Role", "rules": rules},
        {**head, "kind": "RoleBinding", **_binding("Role", name, account or name, profile)},
    ]


def _binding(kind: str, role: str, account: str, profile: Profile) -> dict[str, Any]:
    return {
        "roleRef": {"apiGroup": RBAC, "kind": kind, "name": role},
        "subjects": [{"kind": "ServiceAccount", "name": account, "namespace": profile.namespace}],
    }
