"""Reading Kubernetes objects as JSON: the few questions that every controller and the node agent ask.

Objects stay plain dicts (see `cluster_api.py`): what is not understood here must travel through unchanged. The
functions are pure, and tolerate what an object may lack.
"""

import hashlib
from collections.abc import Iterable, Mapping
from datetime import UTC, datetime
from typing import Any

import msgspec

from deploy.devcluster.cluster_api import Cluster, KubeApiError, Obj

Key = tuple[str, str]
"""(namespace, name); the namespace is empty for what is cluster-scoped."""

API_SERVER = "kube-apiserver"
"""Common name of the certificate that the API server proves itself to webhooks with."""
ROOT_CA = "kube-root-ca.crt"
"""Name of the ConfigMap in each namespace with the certificate of the cluster's CA."""
_SAFE_ALPHABET = "bcdfghjklmnpqrstvwxz2456789"
"""Kubernetes' own: no vowels and no digits that look like letters, so that a suffix never spells a word."""


def key(obj: Obj) -> Key:
    """Where the object is."""
    metadata = obj["metadata"]
    return metadata.get("namespace", ""), metadata["name"]


def name(obj: Obj) -> str:
    """`metadata.name`."""
    return obj["metadata"]["name"]


def namespace(obj: Obj) -> str:
    """`metadata.namespace`, empty for what is cluster-scoped."""
    return obj["metadata"].get("namespace", "")


def uid(obj: Obj) -> str:
    """`metadata.uid`."""
    return obj["metadata"].get("uid", "")


def labels(obj: Obj) -> dict[str, str]:
    """`metadata.labels`."""
    return obj["metadata"].get("labels") or {}


def annotations(obj: Obj) -> dict[str, str]:
    """`metadata.annotations`."""
    return obj["metadata"].get("annotations") or {}


def is_terminating(obj: Obj) -> bool:
    """Deletion was asked for and is not finished."""
    return bool(obj["metadata"].get("deletionTimestamp"))


def controller_of(obj: Obj) -> Obj | None:
    """The owner reference that is marked as the controller."""
    for reference in obj["metadata"].get("ownerReferences") or []:
        if reference.get("controller"):
            return reference
    return None


def is_controlled_by(obj: Obj, owner: Obj) -> bool:
    """By uid: a namesake created later owns nothing of its predecessor's."""
    reference = controller_of(obj)
    return reference is not None and reference.get("uid") == uid(owner)


def controller_reference(owner: Obj) -> Obj:
    """The owner reference that makes `owner` the controller of an object."""
    return {
        "apiVersion": owner["apiVersion"],
        "kind": owner["kind"],
        "name": name(owner),
        "uid": uid(owner),
        "controller": True,
        "blockOwnerDeletion": True,
    }


def selects(selector: Obj | None, candidate: Mapping[str, str]) -> bool:
    """Whether a `LabelSelector` (matchLabels and matchExpressions) selects these labels; an empty one selects all."""
    selector = selector or {}
    if any(candidate.get(label) != value for label, value in (selector.get("matchLabels") or {}).items()):
        return False
    return all(_satisfies(expression, candidate) for expression in selector.get("matchExpressions") or [])


def _satisfies(expression: Obj, candidate: Mapping[str, str]) -> bool:
    value = candidate.get(expression["key"])
    match expression["operator"]:
        case "In":
            return value in (expression.get("values") or [])
        case "NotIn":
            return value not in (expression.get("values") or [])
        case "Exists":
            return value is not None
        case _:
            return value is None


def condition(obj: Obj, kind: str) -> Obj | None:
    """The condition of this type in the object's status."""
    for each in (obj.get("status") or {}).get("conditions") or []:
        if each["type"] == kind:
            return each
    return None


def is_pod_ready(pod: Obj) -> bool:
    """The pod's `Ready` condition."""
    found = condition(pod, "Ready")
    return found is not None and found["status"] == "True"


def is_pod_finished(pod: Obj) -> bool:
    """It ran to its end and will not run again."""
    return (pod.get("status") or {}).get("phase") in {"Succeeded", "Failed"}


def claims_of(pod: Obj) -> list[str]:
    """Names of the PersistentVolumeClaims that its volumes show."""
    sources = [volume.get("persistentVolumeClaim") for volume in pod["spec"].get("volumes") or []]
    return [source["claimName"] for source in sources if source]


def is_pod_active(pod: Obj) -> bool:
    """It counts for the number of replicas: neither finished nor on its way out."""
    return not is_pod_finished(pod) and not is_terminating(pod)


def available_in(pod: Obj, minimum_ready_seconds: float, now: float) -> float | None:
    """Seconds until the pod counts as available if it stays ready: 0 means now, none that it is not ready."""
    found = condition(pod, "Ready")
    if found is None or found["status"] != "True" or is_terminating(pod):
        return None
    if minimum_ready_seconds <= 0:
        return 0.0
    since = parse_timestamp(found.get("lastTransitionTime") or "1970-01-01T00:00:00Z")
    return max(0.0, since + minimum_ready_seconds - now)


def with_condition(
    conditions: Iterable[Obj], kind: str, status: str, *, now: float, reason: str = "", message: str = ""
) -> list[Obj]:
    """The conditions with this one set; its transition time moves only if its status does."""
    stamp = timestamp(now)
    kept: list[Obj] = []
    fresh: Obj = {"type": kind, "status": status, "lastTransitionTime": stamp}
    if reason:
        fresh["reason"] = reason
    if message:
        fresh["message"] = message
    placed = False
    for each in conditions:
        if each["type"] != kind:
            kept.append(each)
            continue
        if each["status"] == status:
            fresh["lastTransitionTime"] = each.get("lastTransitionTime") or stamp
        kept.append(fresh)
        placed = True
    return kept if placed else [*kept, fresh]


def timestamp(now: float) -> str:
    """Seconds since 1970 as RFC 3339 in whole seconds, as Kubernetes writes its times."""
    return datetime.fromtimestamp(now, tz=UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def parse_timestamp(text: str) -> float:
    """RFC 3339 as seconds since 1970."""
    return datetime.fromisoformat(text).timestamp()


def safe_hash(value: Any, length: int) -> str:
    """A hash of JSON that may be part of a name, in Kubernetes' alphabet; equal values have equal hashes."""
    digest = int.from_bytes(hashlib.sha256(msgspec.json.encode(value, order="deterministic")).digest(), "big")
    letters: list[str] = []
    for _ in range(length):
        digest, index = divmod(digest, len(_SAFE_ALPHABET))
        letters.append(_SAFE_ALPHABET[index])
    return "".join(letters)


async def write_status(cluster: Cluster, resource: str, obj: Obj, status: Obj) -> None:
    """Make `status` the object's status, if it is not already; an object that is gone is no error."""
    before: Obj = obj.get("status") or {}
    if before == status:
        return
    merge = status | {field: None for field in before if field not in status}
    try:
        await cluster.patch(resource, namespace(obj), name(obj), {"status": merge}, subresource="status")
    except KubeApiError as error:
        if error.status != 404:
            raise
