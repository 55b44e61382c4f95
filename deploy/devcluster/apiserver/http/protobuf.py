"""Decodes Kubernetes' protobuf encoding for the kinds that `kubectl create` makes from its flags.

Since 1.32 `kubectl create configmap`, `create token`, `auth can-i` and similar commands send protobuf and do not fall
back to JSON; manifests are sent as JSON. This decoder reads the wire format by a table of field numbers and rejects
fields that are not in the table. Responses are always JSON, which these commands accept.

A field is `number:name=type`. Types: `s` string, `i` integer, `b` boolean, `y` bytes, `t` time, `x` integer or string,
`q` quantity, `{T}` map, `T` message, `-` ignored; `[…]` repeated. `*` marks a pointer: it is present even if its value
is zero; other zeros are dropped, as Go's JSON encoder does. The fields of an unnamed message are inlined in JSON. The
types of a pod are in `wire.txt`, which `tools/kubernetes_wire.py` generates.
"""

from __future__ import annotations

import base64
from functools import cache
from pathlib import Path
from typing import Any

import msgspec

from deploy.devcluster.apiserver.status_errors import bad_request
from deploy.devcluster.cluster_api import Obj

MEDIA = "application/vnd.kubernetes.protobuf"
_MAGIC = b"k8s\x00"
_TABLE = """
Unknown 1:typeMeta=TypeMeta 2:raw=y 3:contentEncoding=s 4:contentType=s
TypeMeta 1:apiVersion=s 2:kind=s
ObjectMeta 1:name=s 2:generateName=s 3:namespace=s 4:selfLink=s 5:uid=s 6:resourceVersion=s 7:generation=i \
8:creationTimestamp=t 9:deletionTimestamp=t 10:deletionGracePeriodSeconds=i* 11:labels={s} 12:annotations={s} \
13:ownerReferences=[OwnerReference] 14:finalizers=[s] 17:managedFields=-
OwnerReference 1:kind=s 3:name=s 4:uid=s 5:apiVersion=s 6:controller=b* 7:blockOwnerDeletion=b*
LabelSelector 1:matchLabels={s} 2:matchExpressions=[Requirement]
Requirement 1:key=s 2:operator=s 3:values=[s]
Quantity 1:string=s
Nothing
Namespace 1:metadata=ObjectMeta 2:spec=NamespaceSpec 3:status=NamespaceStatus
NamespaceSpec 1:finalizers=[s]
NamespaceStatus 1:phase=s
ServiceAccount 1:metadata=ObjectMeta 2:secrets=[ObjectReference] 3:imagePullSecrets=[LocalReference] \
4:automountServiceAccountToken=b*
ObjectReference 1:kind=s 2:namespace=s 3:name=s 4:uid=s 5:apiVersion=s 6:resourceVersion=s 7:fieldPath=s
LocalReference 1:name=s
ConfigMap 1:metadata=ObjectMeta 2:data={s} 3:binaryData={y} 4:immutable=b*
Secret 1:metadata=ObjectMeta 2:data={y} 3:type=s 4:stringData={s} 5:immutable=b*
TokenRequest 1:metadata=ObjectMeta 2:spec=TokenRequestSpec 3:status=TokenRequestStatus
TokenRequestSpec 1:audiences=[s] 3:boundObjectRef=BoundReference* 4:expirationSeconds=i*
BoundReference 1:kind=s 2:apiVersion=s 3:name=s 4:uid=s
TokenRequestStatus 1:token=s 2:expirationTimestamp=t
SelfSubjectReview 1:metadata=ObjectMeta 2:status=ReviewStatus
SelfSubjectAccessReview 1:metadata=ObjectMeta 2:spec=AccessSpec 3:status=ReviewStatus
SelfSubjectRulesReview 1:metadata=ObjectMeta 2:spec=RulesSpec 3:status=ReviewStatus
ReviewStatus 1:a=- 2:b=- 3:c=- 4:d=-
AccessSpec 1:resourceAttributes=ResourceAttributes* 2:nonResourceAttributes=NonResourceAttributes*
ResourceAttributes 1:namespace=s 2:verb=s 3:group=s 4:version=s 5:resource=s 6:subresource=s 7:name=s
NonResourceAttributes 1:path=s 2:verb=s
RulesSpec 1:namespace=s
Service 1:metadata=ObjectMeta 2:spec=ServiceSpec 3:status=ServiceStatus
ServiceSpec 1:ports=[ServicePort] 2:selector={s} 3:clusterIP=s 4:type=s 5:externalIPs=[s] 7:sessionAffinity=s \
8:loadBalancerIP=s 10:externalName=s 11:externalTrafficPolicy=s 12:healthCheckNodePort=i \
13:publishNotReadyAddresses=b 18:clusterIPs=[s] 19:ipFamilies=[s]
ServicePort 1:name=s 2:protocol=s 3:port=i 4:targetPort=x 5:nodePort=i 6:appProtocol=s*
ServiceStatus 1:loadBalancer=Nothing
Deployment 1:metadata=ObjectMeta 2:spec=DeploymentSpec 3:status=DeploymentStatus
DeploymentSpec 1:replicas=i* 2:selector=LabelSelector* 3:template=PodTemplate 4:strategy=Strategy \
5:minReadySeconds=i 6:revisionHistoryLimit=i* 7:paused=b 9:progressDeadlineSeconds=i*
Strategy 1:type=s
DeploymentStatus 1:observedGeneration=i 2:replicas=i 3:updatedReplicas=i 4:availableReplicas=i \
5:unavailableReplicas=i 7:readyReplicas=i
Pod 1:metadata=ObjectMeta 2:spec=PodSpec 3:status=-
PodTemplate 1:metadata=ObjectMeta 2:spec=PodSpec
Role 1:metadata=ObjectMeta 2:rules=[Rule]
ClusterRole 1:metadata=ObjectMeta 2:rules=[Rule]
Rule 1:verbs=[s] 2:apiGroups=[s] 3:resources=[s] 4:resourceNames=[s] 5:nonResourceURLs=[s]
RoleBinding 1:metadata=ObjectMeta 2:subjects=[Subject] 3:roleRef=RoleRef
ClusterRoleBinding 1:metadata=ObjectMeta 2:subjects=[Subject] 3:roleRef=RoleRef
Subject 1:kind=s 2:apiGroup=s 3:name=s 4:namespace=s
RoleRef 1:apiGroup=s 2:kind=s 3:name=s
PodDisruptionBudget 1:metadata=ObjectMeta 2:spec=BudgetSpec 3:status=BudgetStatus
BudgetSpec 1:minAvailable=x* 2:selector=LabelSelector* 3:maxUnavailable=x*
BudgetStatus 1:observedGeneration=i 3:disruptionsAllowed=i 4:currentHealthy=i 5:desiredHealthy=i 6:expectedPods=i
Eviction 1:metadata=ObjectMeta 2:deleteOptions=DeleteOptions*
DeleteOptions 1:gracePeriodSeconds=i* 2:preconditions=Preconditions* 3:orphanDependents=b* 4:propagationPolicy=s* \
5:dryRun=[s]
Preconditions 1:uid=s* 2:resourceVersion=s*
"""
_KINDS = frozenset({
    "ClusterRole", "ClusterRoleBinding", "ConfigMap", "DeleteOptions", "Deployment", "Eviction", "Namespace",
    "Pod", "PodDisruptionBudget", "Role", "RoleBinding", "Secret", "SelfSubjectAccessReview", "SelfSubjectReview",
    "SelfSubjectRulesReview", "Service", "ServiceAccount", "TokenRequest",
})  # fmt: skip


class _Field(msgspec.Struct, frozen=True):
    name: str
    type: str
    repeated: bool
    pointer: bool


@cache
def _messages() -> dict[str, dict[int, _Field]]:
    messages: dict[str, dict[int, _Field]] = {}
    pods = Path(__file__).with_name("wire.txt").read_text()
    for line in [*_TABLE.strip().splitlines(), *pods.splitlines()]:
        message, *fields = line.split()
        table = messages[message] = {}
        for field in fields:
            number, _, rest = field.partition(":")
            name, _, spelled = rest.partition("=")
            pointer, spelled = spelled.endswith("*"), spelled.removesuffix("*")
            repeated = spelled.startswith("[")
            table[int(number)] = _Field(name, spelled.strip("[]"), repeated, pointer)
    return messages


def decode(raw: bytes) -> Obj:
    """Decode a body into an object. Raises 400."""
    try:
        return _unwrap(raw)
    except (ValueError, IndexError, RecursionError) as error:
        raise bad_request(f"the body cannot be read as protobuf: {error}") from error


def _unwrap(raw: bytes) -> Obj:
    if not raw.startswith(_MAGIC):
        raise ValueError("it does not start with k8s\\0")
    envelope = _message("Unknown", memoryview(raw)[4:])
    identity = envelope.get("typeMeta") or {}
    kind = str(identity.get("kind"))
    if kind not in _KINDS:
        raise ValueError(f"protobuf of {identity.get('apiVersion')} {kind} is not understood here, JSON is")
    return {**identity, **_message(kind, memoryview(base64.b64decode(envelope.get("raw", ""))))}


def _varint(data: memoryview, at: int) -> tuple[int, int]:
    value = shift = 0
    while True:
        byte = data[at]
        at += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, at
        shift += 7
        if shift > 63:
            raise ValueError("an integer is too long")


def _message(name: str, data: memoryview) -> dict[str, Any]:
    fields = _messages()[name]
    made: dict[str, Any] = {}
    at = 0
    while at < len(data):
        tag, at = _varint(data, at)
        value: int | memoryview
        if tag & 7 == 0:
            value, at = _varint(data, at)
        elif tag & 7 == 2:
            length, at = _varint(data, at)
            if at + length > len(data):
                raise ValueError("it is cut off")
            value, at = data[at : at + length], at + length
        else:
            raise ValueError(f"wire type {tag & 7} is not in use")
        field = fields.get(tag >> 3)
        if field is None:
            raise ValueError(f"field {tag >> 3} of {name} is not understood here; send JSON")
        _take(made, field, value)
    return made


def _take(made: dict[str, Any], field: _Field, value: int | memoryview) -> None:
    if field.type.startswith("{"):
        key, item = _entry(field.type[1:-1], value)
        made.setdefault(field.name, {})[key] = item
        return
    read = _scalar(field.type, value)
    if not field.name:
        made.update(read)
    elif field.repeated:
        made.setdefault(field.name, []).append(read)
    elif read is not None and (field.pointer or read not in ("", 0, False, {})):
        made[field.name] = read


def _entry(item_type: str, value: int | memoryview) -> tuple[str, Any]:
    key, item = "", ""
    data = _bytes(value)
    at = 0
    while at < len(data):
        tag, at = _varint(data, at)
        length, at = _varint(data, at)
        part, at = data[at : at + length], at + length
        if tag >> 3 == 1:
            key = str(part, "utf-8")
        else:
            item = _scalar(item_type, part)
    return key, item


def _bytes(value: int | memoryview) -> memoryview:
    if isinstance(value, int):
        raise ValueError("a number stands where bytes should")  # noqa: TRY004 (bad content, not a bad call)
    return value


def _scalar(name: str, value: int | memoryview) -> Any:
    match name:
        case "i" | "b":
            if not isinstance(value, int):
                raise ValueError("bytes stand where a number should")  # noqa: TRY004 (bad content, not a bad call)
            number = value - (1 << 64) if value >= 1 << 63 else value
            return bool(number) if name == "b" else number
        case "s":
            return str(_bytes(value), "utf-8")
        case "y":
            return base64.b64encode(_bytes(value)).decode()
        case "-" | "t":
            return None  # the server sets times
        case "q":
            return _message("Quantity", _bytes(value)).get("string", "0")
        case "x":
            return _int_or_string(_bytes(value))
        case _:
            return _message(name, _bytes(value))


def _int_or_string(data: memoryview) -> int | str:
    kind, number, text, at = 0, 0, "", 0
    while at < len(data):
        tag, at = _varint(data, at)
        value, at = _varint(data, at)
        if tag >> 3 == 1:
            kind = value
        elif tag >> 3 == 2:
            number = value
        else:
            text, at = str(data[at : at + value], "utf-8"), at + value
    return text if kind else number
