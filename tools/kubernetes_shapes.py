"""Write `deploy/devcluster/apiserver/kinds/shapes.txt`: the fields of the built-in kinds that the devcluster serves.

The types come from the models of the `kubernetes` package, which are generated from Kubernetes' own OpenAPI
document; merge keys are not in those models and stand here, from the Go types' `patchMergeKey` and `listMapKey`
tags. Run it again after an upgrade of `kubernetes`: `python tools/kubernetes_shapes.py`.

A line is a type: `Name field:type field!:type …`, where `!` marks a required field. Types: `s` string, `i` integer,
`n` number, `b` boolean, `t` time, `q` quantity, `x` integer or string, `c` base64 bytes, `*` anything, `[T]` list,
`[T]@a,b` list of objects keyed by a and b (the first is the strategic merge key), `[s]@` set, `{T}` map.
"""

from __future__ import annotations

import datetime as dt
import types
import typing
from pathlib import Path
from typing import Any

from kubernetes.client import models
from pydantic import BaseModel

TARGET = Path(__file__).parents[1] / "deploy" / "devcluster" / "apiserver" / "shapes.txt"

ROOTS = (
    "V1Namespace", "V1ServiceAccount", "V1Service", "V1Endpoints", "V1EndpointSlice", "V1Pod", "V1Node", "CoreV1Event",
    "V1Deployment", "V1ReplicaSet", "V1StatefulSet", "V1ConfigMap", "V1Secret", "V1Lease",
    "V1CustomResourceDefinition", "V1MutatingWebhookConfiguration", "V1ValidatingWebhookConfiguration",
    "V1ClusterRole", "V1Role", "V1ClusterRoleBinding", "V1RoleBinding", "V1PodDisruptionBudget",
    "V1PersistentVolumeClaim", "V2HorizontalPodAutoscaler", "V1NetworkPolicy",
)  # fmt: skip

KEYS = {
    "PodSpec.containers": "name",
    "PodSpec.initContainers": "name",
    "PodSpec.ephemeralContainers": "name",
    "PodSpec.volumes": "name",
    "PodSpec.imagePullSecrets": "name",
    "PodSpec.hostAliases": "ip",
    "PodSpec.topologySpreadConstraints": "topologyKey,whenUnsatisfiable",
    "PodSpec.resourceClaims": "name",
    "PodSpec.schedulingGates": "name",
    "Container.env": "name",
    "Container.ports": "containerPort,protocol",
    "Container.volumeMounts": "mountPath",
    "Container.volumeDevices": "devicePath",
    "EphemeralContainer.env": "name",
    "EphemeralContainer.ports": "containerPort,protocol",
    "EphemeralContainer.volumeMounts": "mountPath",
    "EphemeralContainer.volumeDevices": "devicePath",
    "ServiceSpec.ports": "port,protocol",
    "ServiceStatus.conditions": "type",
    "PodStatus.conditions": "type",
    "PodStatus.podIPs": "ip",
    "PodStatus.hostIPs": "ip",
    "NodeStatus.conditions": "type",
    "NodeStatus.addresses": "type",
    "NamespaceStatus.conditions": "type",
    "DeploymentStatus.conditions": "type",
    "ReplicaSetStatus.conditions": "type",
    "StatefulSetStatus.conditions": "type",
    "PodDisruptionBudgetStatus.conditions": "type",
    "CustomResourceDefinitionStatus.conditions": "type",
    "PersistentVolumeClaimStatus.conditions": "type",
    "ServiceAccount.secrets": "name",
    "ObjectMeta.ownerReferences": "uid",
    "ObjectMeta.finalizers": "",
    "MutatingWebhookConfiguration.webhooks": "name",
    "ValidatingWebhookConfiguration.webhooks": "name",
    "NodeSpec.podCIDRs": "",
}

QUANTITIES = {
    "ResourceRequirements.limits",
    "ResourceRequirements.requests",
    "VolumeResourceRequirements.limits",
    "VolumeResourceRequirements.requests",
    "EmptyDirVolumeSource.sizeLimit",
    "ResourceFieldSelector.divisor",
    "NodeStatus.capacity",
    "NodeStatus.allocatable",
    "PodSpec.overhead",
}
OPAQUE = {"JSONSchemaProps"}


def name_of(model: type[BaseModel]) -> str:
    """The type's Go name: `V1PodSpec` → `PodSpec`."""
    name = model.__name__
    for prefix in ("CoreV1", "DiscoveryV1", "RbacV1", "AdmissionregistrationV1", "ApiextensionsV1", "V1", "V2"):
        name = name.removeprefix(prefix)
    return name


def spell(annotation: Any, path: str, seen: dict[str, type[BaseModel]]) -> str:
    """One type in the notation above; models met on the way are added to `seen`."""
    origin, arguments = typing.get_origin(annotation), typing.get_args(annotation)
    if origin is typing.Annotated:
        return spell(arguments[0], path, seen)
    if origin in (typing.Union, types.UnionType):
        names = sorted({spell(one, path, seen) for one in arguments if one is not type(None)})
        return {"i s": "x", "c s": "c", "i n": "n", "* b": "*"}.get(
            " ".join(names), names[0] if len(names) == 1 else "*"
        )
    if origin is list:
        return f"[{spell(arguments[0], path, seen)}]" + (f"@{KEYS[path]}" if path in KEYS else "")
    if origin is dict:
        return "*" if path == "ManagedFieldsEntry.fieldsV1" else f"{{{spell(arguments[1], path, seen)}}}"
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        name = name_of(annotation)
        if name in OPAQUE:
            return "*"
        seen.setdefault(name, annotation)
        return name
    if path in QUANTITIES:
        return "q"
    plain = {str: "s", int: "i", float: "n", bool: "b", bytes: "c", dt.datetime: "t"}
    return plain.get(annotation, "*")


def lines() -> list[str]:
    """All types reachable from the roots, roots first."""
    seen: dict[str, type[BaseModel]] = {}
    for root in ROOTS:
        model = getattr(models, root)
        seen[name_of(model)] = model
    done: dict[str, str] = {}
    while pending := [name for name in seen if name not in done]:
        for name in pending:
            fields: list[str] = []
            for attribute, field in seen[name].model_fields.items():
                wire = str(field.serialization_alias or attribute)
                mark = "!" if field.is_required() else ""
                fields.append(f"{wire}{mark}:{spell(field.annotation, f'{name}.{wire}', seen)}")
            done[name] = " ".join([name, *fields])
    return list(done.values())


if __name__ == "__main__":
    TARGET.write_text("\n".join(lines()) + "\n")
