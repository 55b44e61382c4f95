"""Defaults of built-in kinds: fills in fields that an object leaves out, as Kubernetes does.

Only defaults that other components rely on: kubelet and controllers of the devcluster, `kubectl`, and clients.
"""

from __future__ import annotations

import base64
from collections.abc import Callable
from typing import Any

from deploy.devcluster.cluster_api import Obj

_PROTECTION = "kubernetes.io/pvc-protection"


def _set(target: dict[str, Any], **values: Any) -> None:
    for key, value in values.items():
        if target.get(key) is None:
            target[key] = value


def _probe(probe: dict[str, Any]) -> None:
    _set(probe, timeoutSeconds=1, periodSeconds=10, successThreshold=1, failureThreshold=3)
    if isinstance(probe.get("httpGet"), dict):
        _set(probe["httpGet"], path="/", scheme="HTTP")
    if isinstance(probe.get("grpc"), dict):
        _set(probe["grpc"], service="")


def _container(container: dict[str, Any]) -> None:
    image = str(container.get("image", ""))
    latest = ":" not in image.rpartition("/")[2] or image.endswith(":latest")
    _set(
        container,
        imagePullPolicy="Always" if latest and "@" not in image else "IfNotPresent",
        resources={},
        terminationMessagePath="/dev/termination-log",
        terminationMessagePolicy="File",
    )
    for port in container.get("ports") or ():
        _set(port, protocol="TCP")
    for name in ("livenessProbe", "readinessProbe", "startupProbe"):
        if isinstance(container.get(name), dict):
            _probe(container[name])
    for variable in container.get("env") or ():
        reference = (variable.get("valueFrom") or {}).get("fieldRef")
        if isinstance(reference, dict):
            _set(reference, apiVersion="v1")


def _volume(volume: dict[str, Any]) -> None:
    if set(volume) == {"name"}:
        volume["emptyDir"] = {}
    for source in ("configMap", "secret", "downwardAPI", "projected"):
        if isinstance(volume.get(source), dict):
            _set(volume[source], defaultMode=0o644)
    if isinstance(volume.get("hostPath"), dict):
        _set(volume["hostPath"], type="")
    projected = (volume.get("projected") or {}).get("sources") or ()
    for source in projected:
        if isinstance(source.get("serviceAccountToken"), dict):
            _set(source["serviceAccountToken"], expirationSeconds=3600)
    items = [*((volume.get("downwardAPI") or {}).get("items") or ())]
    for source in projected:
        items += (source.get("downwardAPI") or {}).get("items") or ()
    for item in items:
        if isinstance(item.get("fieldRef"), dict):
            _set(item["fieldRef"], apiVersion="v1")


def pod_spec(spec: dict[str, Any]) -> None:
    """Fill in the defaults of a pod spec or of a template's."""
    _set(
        spec,
        restartPolicy="Always",
        terminationGracePeriodSeconds=30,
        dnsPolicy="ClusterFirst",
        schedulerName="default-scheduler",
        securityContext={},
    )
    if spec.get("serviceAccountName") and not spec.get("serviceAccount"):
        spec["serviceAccount"] = spec["serviceAccountName"]
    elif spec.get("serviceAccount") and not spec.get("serviceAccountName"):
        spec["serviceAccountName"] = spec["serviceAccount"]
    for name in ("initContainers", "containers", "ephemeralContainers"):
        for container in spec.get(name) or ():
            _container(container)
    for volume in spec.get("volumes") or ():
        _volume(volume)


def _pod(obj: Obj) -> None:
    spec = obj.get("spec") or {}
    pod_spec(spec)
    _set(spec, enableServiceLinks=True, serviceAccountName="default", serviceAccount="default")
    # As the DefaultTolerationSeconds plug-in does; `kubectl describe` prints them.
    _set(
        spec,
        tolerations=[
            {"effect": "NoExecute", "key": f"node.kubernetes.io/{why}", "operator": "Exists", "tolerationSeconds": 300}
            for why in ("not-ready", "unreachable")
        ],
    )
    status = obj.setdefault("status", {})
    _set(status, phase="Pending", qosClass=_quality(spec))


def _quality(spec: dict[str, Any]) -> str:
    containers = [*(spec.get("containers") or ()), *(spec.get("initContainers") or ())]
    resources = [one.get("resources") or {} for one in containers]
    if not any(one.get("limits") or one.get("requests") for one in resources):
        return "BestEffort"
    for one in resources:
        limits, requests = one.get("limits") or {}, one.get("requests") or {}
        if not {"cpu", "memory"} <= set(limits) or any(requests.get(k, v) != v for k, v in limits.items()):
            return "Burstable"
    return "Guaranteed"


def _template(obj: Obj) -> None:
    spec = obj.get("spec") or {}
    _set(spec, replicas=1, revisionHistoryLimit=10)
    template = spec.get("template") or {}
    template.setdefault("metadata", {})
    if isinstance(template.get("spec"), dict):
        pod_spec(template["spec"])


def _deployment(obj: Obj) -> None:
    _template(obj)
    spec = obj.get("spec") or {}
    _set(spec, progressDeadlineSeconds=600, strategy={})
    strategy = spec["strategy"]
    _set(strategy, type="RollingUpdate")
    if strategy["type"] == "RollingUpdate":
        _set(strategy, rollingUpdate={})
        _set(strategy["rollingUpdate"], maxUnavailable="25%", maxSurge="25%")


def _replica_set(obj: Obj) -> None:
    _template(obj)
    (obj.get("spec") or {}).pop("revisionHistoryLimit", None)


def _stateful_set(obj: Obj) -> None:
    _template(obj)
    spec = obj.get("spec") or {}
    _set(spec, podManagementPolicy="OrderedReady", updateStrategy={})
    _set(spec["updateStrategy"], type="RollingUpdate")
    if spec["updateStrategy"]["type"] == "RollingUpdate":
        _set(spec["updateStrategy"], rollingUpdate={})
        _set(spec["updateStrategy"]["rollingUpdate"], partition=0)
    _set(spec, persistentVolumeClaimRetentionPolicy={})
    _set(spec["persistentVolumeClaimRetentionPolicy"], whenDeleted="Retain", whenScaled="Retain")


def _service(obj: Obj) -> None:
    spec = obj.setdefault("spec", {})
    _set(spec, type="ClusterIP", sessionAffinity="None")
    if spec["type"] != "ExternalName":
        _set(spec, internalTrafficPolicy="Cluster", ipFamilies=["IPv4"], ipFamilyPolicy="SingleStack")
    if spec.get("clusterIP") and not spec.get("clusterIPs"):
        spec["clusterIPs"] = [spec["clusterIP"]]
    elif spec.get("clusterIPs") and not spec.get("clusterIP"):
        spec["clusterIP"] = spec["clusterIPs"][0]
    for port in spec.get("ports") or ():
        _set(port, protocol="TCP", targetPort=port.get("port"))
    _set(obj, status={"loadBalancer": {}})


def _secret(obj: Obj) -> None:
    _set(obj, type="Opaque")
    plain = obj.pop("stringData", None) or {}
    if plain:
        data = obj.setdefault("data", {})
        for key, value in plain.items():
            data[key] = base64.b64encode(str(value).encode()).decode()


def _claim(obj: Obj) -> None:
    _set(obj.get("spec") or {}, volumeMode="Filesystem")
    _set(obj.setdefault("status", {}), phase="Pending")
    metadata = obj["metadata"]
    # As the plug-in StorageObjectInUseProtection does; see `controllers/volume_claims.py`.
    if "deletionTimestamp" not in metadata and _PROTECTION not in (metadata.get("finalizers") or ()):
        metadata["finalizers"] = [*(metadata.get("finalizers") or ()), _PROTECTION]


def _namespace(obj: Obj) -> None:
    metadata = obj["metadata"]
    metadata.setdefault("labels", {})["kubernetes.io/metadata.name"] = metadata.get("name", "")
    _set(obj, spec={})
    _set(obj["spec"], finalizers=["kubernetes"])
    status = obj.setdefault("status", {})
    _set(status, phase="Terminating" if metadata.get("deletionTimestamp") else "Active")


def _webhooks(obj: Obj, *, mutating: bool) -> None:
    for webhook in obj.get("webhooks") or ():
        _set(
            webhook,
            failurePolicy="Fail",
            matchPolicy="Equivalent",
            namespaceSelector={},
            objectSelector={},
            timeoutSeconds=10,
        )
        if mutating:
            _set(webhook, reinvocationPolicy="Never")
        for rule in webhook.get("rules") or ():
            _set(rule, scope="*")
        service = (webhook.get("clientConfig") or {}).get("service")
        if isinstance(service, dict):
            _set(service, port=443)


def _crd(obj: Obj) -> None:
    spec = obj.get("spec") or {}
    names = spec.get("names") or {}
    kind = str(names.get("kind", ""))
    _set(names, singular=kind.lower(), listKind=f"{kind}List")
    _set(spec, conversion={"strategy": "None"})


def _slice(obj: Obj) -> None:
    for port in obj.get("ports") or ():
        _set(port, name="", protocol="TCP")


def _role_binding(obj: Obj) -> None:
    _set(obj.get("roleRef") or {}, apiGroup="rbac.authorization.k8s.io")


_DEFAULTS: dict[str, Callable[[Obj], None]] = {
    "pods": _pod,
    "deployments.apps": _deployment,
    "replicasets.apps": _replica_set,
    "statefulsets.apps": _stateful_set,
    "services": _service,
    "secrets": _secret,
    "namespaces": _namespace,
    "persistentvolumeclaims": _claim,
    "endpointslices.discovery.k8s.io": _slice,
    "customresourcedefinitions.apiextensions.k8s.io": _crd,
    "mutatingwebhookconfigurations.admissionregistration.k8s.io": lambda obj: _webhooks(obj, mutating=True),
    "validatingwebhookconfigurations.admissionregistration.k8s.io": lambda obj: _webhooks(obj, mutating=False),
    "rolebindings.rbac.authorization.k8s.io": _role_binding,
    "clusterrolebindings.rbac.authorization.k8s.io": _role_binding,
}


def fill(resource: str, obj: Obj) -> None:
    """Fill in the defaults of an object in place. Its types must have been checked."""
    if filler := _DEFAULTS.get(resource):
        filler(obj)
