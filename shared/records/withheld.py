"""The closed form of an object: what stands for it where its content is not used, and grants nothing. Pure.

An object can be too large for the log, unreadable, or beyond a budget. Its former form must not stay in force if
the new form may have revoked some of it, and to treat it as deleted can open what its presence closed. So its name,
age and identity remain, and everything that lets calls through or sends them anywhere goes. A reader that knows
nothing of closed forms reads a small object.

In the log the ingestor writes the closed form, and beside it how many bytes the object had (`Event.withheld`). What
is small and closes stays as the object has it: the membership of a namespace, and its annotations against the
MeshConfig. Users take a namespace out of the mesh by a label, which is never too large.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import msgspec

from shared import projected_objects as projected
from shared.eventlog.protocol import MAX_PAYLOAD
from shared.records import unreadable
from shared.records.events import encode_object

MOST_BYTES = MAX_PAYLOAD - 16 * 1024
"""Bytes of a projected object above which its closed form is written: the rest of an event takes less than 16 KiB."""

GRANTING = frozenset({"TrafficTarget", "IdentityBinding", "HTTPRouteGroup", "TCPRoute"})
"""Kinds of which nothing stays in force when the newest form cannot be read: their users may have meant to revoke."""

LABEL_WITHHELD = "meshlog.io/withheld"
"""On the closed form of a Pod: its labels are not known, so no selector may rely on what it lacks."""

_MAX_TEXT = 253
"""Characters of a text that a closed form takes over; Kubernetes' names are not longer."""
_MAX_ADDRESSES = 4
_KEPT_OF_POD = (projected.ANNOTATION_SIDECAR, projected.ANNOTATION_PROXYLESS)
_MAX_SETTING = 4096
"""Characters of a setting that a closed form takes over as it stands."""
_STRICT = {
    projected.ANNOTATION_PERMISSIVE: "false",
    projected.ANNOTATION_CALLS: "",
    projected.ANNOTATION_ESCAPED_SLASHES: "reject",
    projected.ANNOTATION_FORWARDERS: "",
}
"""Annotation by which a namespace configures its own pods → its substitute if it is too long: the stricter choice."""
_KEPT_OF_ROOT = ("role", "intent", "trustDomain", "provider")

_MEANWHILE = {
    "Namespace": "only its membership and what it says for its own pods is used",
    "ServiceAccount": "its name and uid are used, as always",
    "Service": "it keeps its addresses and leads nowhere",
    "EndpointSlice": "none of its endpoints is used",
    "Pod": "its labels and ports are not known: no Service and no IdentityBinding selects it by them",
    "TrafficSplit": "the shares that were in force stay, if there were any",
    "MeshConfig": "the mesh is as without one, closed",
    "MeshRootCertificate": "only its role, trust domain and provider are used",
    "TokenIssuer": "no token proves anything",
}
"""What holds while an object is withheld; of every other kind nothing is in force."""


def closed(kind: str, value: Any) -> Any:
    """The closed form of an object of a kind of `shared.projected_objects.KINDS`: small, and of the same type."""
    if kind == "TokenIssuer":
        return projected.TokenIssuer(issuer="", jwks={"keys": []})  # no token proves anything
    meta = _bare(value.metadata)
    match kind:
        case "Namespace":
            return projected.Namespace(_as_member(meta, value.metadata))
        case "ServiceAccount":
            return projected.ServiceAccount(meta)
        case "Service":
            return projected.Service(meta, _addresses_only(value.spec))
        case "EndpointSlice":
            service = _short(value.metadata.labels.get(projected.LABEL_SERVICE_NAME, ""))
            labels = {projected.LABEL_SERVICE_NAME: service} if service else {}
            meta = msgspec.structs.replace(meta, labels=labels)
            return projected.EndpointSlice(meta, address_type=_short(value.address_type))
        case "Pod":
            return _unlabelled(meta, value)
        case _:
            return projected.PolicyObject(meta, _closed_spec(kind, value.spec))


def _closed_spec(kind: str, spec: Mapping[str, Any]) -> dict[str, Any]:
    match kind:
        case "TCPRoute" | "HTTPRouteGroup" | "UDPRoute":
            # Without ports it would mean all of them, to every build: what is no list is refused.
            return {"matches": "withheld"}
        case "MeshRootCertificate":
            small = {key: spec[key] for key in _KEPT_OF_ROOT if key in spec}
            return small if len(encode_object(small)) <= _MAX_SETTING else {}
        case _:
            return {}


def said(kind: str, size: int, why: str = "") -> tuple[str, str]:
    """The code and the sentence of an event of a kind that withholds an object of `size` bytes; `why`: the parser's."""
    meanwhile = _MEANWHILE.get(kind, "nothing of it is in force")
    if size > MOST_BYTES:
        why = f"has {size} bytes, more than the {MOST_BYTES} that the log takes; until it is smaller {meanwhile}"
        return "object/too-large", why
    reason = f" ({why[: unreadable.MOST]})" if why else ""
    return "object/unreadable", f"cannot be read as a {kind}{reason}; until it can be {meanwhile}"


def _as_member(bare: projected.Meta, meta: projected.Meta) -> projected.Meta:
    """In or out of the mesh by its labels, and no more open than its annotations."""
    labels = {
        label: _short(meta.labels[label])
        for label in (projected.LABEL_MONITORED_BY, projected.LABEL_IGNORE)
        if label in meta.labels
    }
    annotations = {
        name: meta.annotations[name] if len(meta.annotations[name]) <= _MAX_SETTING else strict
        for name, strict in _STRICT.items()
        if name in meta.annotations
    }
    if projected.ANNOTATION_INJECTION in meta.annotations:
        annotations[projected.ANNOTATION_INJECTION] = _short(meta.annotations[projected.ANNOTATION_INJECTION])
    return msgspec.structs.replace(bare, labels=labels, annotations=annotations)


def _bare(meta: projected.Meta) -> projected.Meta:
    return projected.Meta(
        name=_short(meta.name),
        namespace=_short(meta.namespace),
        uid=_short(meta.uid),
        creation_timestamp=_short(meta.creation_timestamp),
        deletion_timestamp=_short(meta.deletion_timestamp),
    )


def _addresses_only(spec: projected.ServiceSpec) -> projected.ServiceSpec:
    """It keeps its addresses, so that no other takes them over."""
    return projected.ServiceSpec(
        type=_short(spec.type),
        cluster_ip=_short(spec.cluster_ip),
        cluster_ips=[_short(address) for address in spec.cluster_ips[:_MAX_ADDRESSES]],
    )


def _unlabelled(meta: projected.Meta, pod: projected.Pod) -> projected.Pod:
    """It stays a workload of its account: were it gone, a binding by labels could mean the account's other pods."""
    annotations = {
        key: _short(pod.metadata.annotations[key]) for key in _KEPT_OF_POD if key in pod.metadata.annotations
    }
    meta = msgspec.structs.replace(meta, labels={LABEL_WITHHELD: "true"}, annotations=annotations)
    spec = projected.PodSpec(
        service_account_name=_short(pod.spec.service_account_name),
        host_network=pod.spec.host_network,
    )
    addresses = [projected.PodIp(ip=_short(one.ip)) for one in pod.status.pod_ips[:_MAX_ADDRESSES]]
    status = projected.PodStatus(phase=_short(pod.status.phase), pod_ip=_short(pod.status.pod_ip), pod_ips=addresses)
    return projected.Pod(meta, spec, status)


def _short(text: str) -> str:
    return text[:_MAX_TEXT]
