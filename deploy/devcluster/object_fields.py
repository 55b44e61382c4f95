"""Accessors of Kubernetes objects as JSON, for controllers and kubelet.

Objects are plain dicts (see `cluster_api.py`), so that unknown fields are preserved. All functions but `write_status`
are pure, and accept objects without optional fields.
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
"""Common name of the API server's client certificate for webhooks."""
ROOT_CA = "kube-root-ca.crt"
"""Name of the ConfigMap in each namespace with the certificate of the cluster's CA."""
_SAFE_ALPHABET = "bcdfghjklmnpqrstvwxz2456789"
"""Kubernetes' own: no vowels and no digits that look like letters, so that a suffix never spells a word."""


def key(obj: Obj) -> Key:
    """Namespace and name."""
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
    """True if deletion was requested and is not finished."""
    return bool(obj["metadata"].get("deletionTimestamp"))


def controller_of(obj: Obj) -> Obj | None:
    """The owner reference of the controller, or None."""
    for reference in obj["metadata"].get("ownerReferences") or []:
        if reference.get("controller"):
            return reference
    return None


def is_controlled_by(obj: Obj, owner: Obj) -> bool:
    """True if `owner` is the controller, by UID: a later object of the same name is not."""
    reference = controller_of(obj)
    return reference is not None and reference.get("uid") == uid(owner)


def controller_reference(owner: Obj) -> Obj:
    """An owner reference with `owner` as the controller."""
    return {
        "apiVersion": owner["apiVersion"],
        "kind": owner["kind"],
        "name": name(owner),
        "uid": uid(owner),
        "controller": True,
        "blockOwnerDeletion": True,
    }


def selects(selector: Obj | None, candidate: Mapping[str, str]) -> bool:
    """True if a `LabelSelector` selects these labels; an empty one selects all."""
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
    """The condition of this type in the object's status, or None."""
    for each in (obj.get("status") or {}).get("conditions") or []:
        if each["type"] == kind:
            return each
    return None


def is_pod_ready(pod: Obj) -> bool:
    """True if the condition `Ready` is true."""
    found = condition(pod, "Ready")
    return found is not None and found["status"] == "True"


def is_pod_finished(pod: Obj) -> bool:
    """True if the pod has ended for good."""
    return (pod.get("status") or {}).get("phase") in {"Succeeded", "Failed"}


def claims_of(pod: Obj) -> list[str]:
    """Names of the PersistentVolumeClaims in the pod's volumes."""
    sources = [volume.get("persistentVolumeClaim") for volume in pod["spec"].get("volumes") or []]
    return [source["claimName"] for source in sources if source]


def is_pod_active(pod: Obj) -> bool:
    """True if the pod counts as a replica: neither finished nor terminating."""
    return not is_pod_finished(pod) and not is_terminating(pod)


def available_in(pod: Obj, minimum_ready_seconds: float, now: float) -> float | None:
    """Seconds until the pod is available if it stays ready: 0 if it is now, None if it is not ready."""
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
    """The conditions with this one set; its transition time changes only with its status."""
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
    """Format seconds since 1970 as RFC 3339 in whole seconds, as Kubernetes does."""
    return datetime.fromtimestamp(now, tz=UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def parse_timestamp(text: str) -> float:
    """Parse RFC 3339 into seconds since 1970."""
    return datetime.fromisoformat(text).timestamp()


def safe_hash(value: Any, length: int) -> str:
    """A hash of a JSON value in Kubernetes' alphabet for names; equal values have equal hashes."""
    digest = int.from_bytes(hashlib.sha256(msgspec.json.encode(value, order="deterministic")).digest(), "big")
    letters: list[str] = []
    for _ in range(length):
        digest, index = divmod(digest, len(_SAFE_ALPHABET))
        letters.append(_SAFE_ALPHABET[index])
    return "".join(letters)


async def write_status(cluster: Cluster, resource: str, obj: Obj, status: Obj) -> None:
    """Write `status` unless it is unchanged; a missing object is no error."""
    before: Obj = obj.get("status") or {}
    if before == status:
        return
    merge = status | {field: None for field in before if field not in status}
    try:
        await cluster.patch(resource, namespace(obj), name(obj), {"status": merge}, subresource="status")
    except KubeApiError as error:
        if error.status != 404:
            raise
