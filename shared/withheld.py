"""The closed form of an object: what stands for it where its content is not used, and grants nothing. Pure.

An object can be too large for the log, or beyond a budget. What it said before must not stay in force if the new form
may have revoked some of it, and to treat it as deleted can open what its presence closed. So its name, age and
identity remain, and everything that lets calls through or sends them anywhere goes. A reader that knows nothing of
closed forms reads an object that says little.
"""

from __future__ import annotations

from typing import Any

import msgspec

from shared import model

LABEL_WITHHELD = "meshlog.io/withheld"
"""On the closed form of a Pod: its labels are not known, so no selector may rely on what it lacks."""

_MAX_TEXT = 253
"""Characters of a text that a closed form takes over; Kubernetes' names are not longer."""
_MAX_ADDRESSES = 4
_KEPT_OF_POD = (model.ANNOTATION_SIDECAR, model.ANNOTATION_PROXYLESS)


def closed(kind: str, value: Any) -> Any:
    """The closed form of an object of a kind of `shared.model.KINDS`: small, and of the same type."""
    if kind == "TokenIssuer":
        return model.TokenIssuer(issuer="", jwks={"keys": []})  # no token proves anything
    meta = _bare(value.metadata)
    match kind:
        case "Namespace":
            return model.Namespace(meta)  # without its label it is no member
        case "ServiceAccount":
            return model.ServiceAccount(meta)
        case "Service":
            return model.Service(meta, _addresses_only(value.spec))
        case "EndpointSlice":
            service = _short(value.metadata.labels.get(model.LABEL_SERVICE_NAME, ""))
            labels = {model.LABEL_SERVICE_NAME: service} if service else {}
            meta = msgspec.structs.replace(meta, labels=labels)
            return model.EndpointSlice(meta, address_type=_short(value.address_type))
        case "Pod":
            return _unlabelled(meta, value)
        case "TCPRoute":
            # Without ports it would mean all of them, to every build: what is no list is refused.
            return model.PolicyObject(meta, {"matches": "withheld"})
        case _:
            return model.PolicyObject(meta)


def _bare(meta: model.Meta) -> model.Meta:
    return model.Meta(
        name=_short(meta.name),
        namespace=_short(meta.namespace),
        uid=_short(meta.uid),
        creation_timestamp=_short(meta.creation_timestamp),
        deletion_timestamp=_short(meta.deletion_timestamp),
    )


def _addresses_only(spec: model.ServiceSpec) -> model.ServiceSpec:
    """It keeps its addresses, so that no other takes them over."""
    return model.ServiceSpec(
        type=_short(spec.type),
        cluster_ip=_short(spec.cluster_ip),
        cluster_ips=[_short(address) for address in spec.cluster_ips[:_MAX_ADDRESSES]],
    )


def _unlabelled(meta: model.Meta, pod: model.Pod) -> model.Pod:
    """It stays a workload of its account: were it gone, a binding by labels could mean the account's other pods."""
    annotations = {
        key: _short(pod.metadata.annotations[key]) for key in _KEPT_OF_POD if key in pod.metadata.annotations
    }
    meta = msgspec.structs.replace(meta, labels={LABEL_WITHHELD: "true"}, annotations=annotations)
    spec = model.PodSpec(
        service_account_name=_short(pod.spec.service_account_name),
        host_network=pod.spec.host_network,
    )
    addresses = [model.PodIp(ip=_short(one.ip)) for one in pod.status.pod_ips[:_MAX_ADDRESSES]]
    status = model.PodStatus(phase=_short(pod.status.phase), pod_ip=_short(pod.status.pod_ip), pod_ips=addresses)
    return model.Pod(meta, spec, status)


def _short(text: str) -> str:
    return text[:_MAX_TEXT]
