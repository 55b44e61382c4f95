"""Columns of `kubectl get` for the built-in kinds: a name, and a function of object and time. Pure."""

from __future__ import annotations

import calendar
import time
from typing import Any

from deploy.devcluster.apiserver.kinds.kind_registry import Cell, PrinterColumn
from deploy.devcluster.cluster_api import Obj

_PENDING = "<none>"


def duration(seconds: float) -> str:
    """Format seconds as `kubectl` does: `12s`, `3m4s`, `5h`, `2d`."""
    whole = max(0, int(seconds))
    if whole < 120:
        return f"{whole}s"
    minutes, second = divmod(whole, 60)
    if minutes < 10:
        return f"{minutes}m{second}s" if second else f"{minutes}m"
    if minutes < 180:
        return f"{minutes}m"
    hours, minute = divmod(minutes, 60)
    if hours < 8:
        return f"{hours}h{minute}m" if minute else f"{hours}h"
    if hours < 48:
        return f"{hours}h"
    days, hour = divmod(hours, 24)
    if days < 8:
        return f"{days}d{hour}h" if hour else f"{days}d"
    return f"{days}d" if days < 730 else f"{days // 365}y"


def age(stamp: Any, now: float) -> str:
    """The age of a timestamp, formatted by `duration`."""
    try:
        moment = calendar.timegm(time.strptime(str(stamp)[:19], "%Y-%m-%dT%H:%M:%S"))
    except ValueError:
        return "<unknown>"
    return duration(now - moment)


def at(obj: Any, path: str) -> Any:
    """The value at a dotted path, or None."""
    for step in path.split("."):
        obj = obj.get(step) if isinstance(obj, dict) else None
    return obj


def field(path: str, default: Any = _PENDING) -> Cell:
    """A column that shows one field."""

    def cell(obj: Obj, _now: float) -> Any:
        value = at(obj, path)
        return default if value is None or value == "" else value

    return cell


def _since(path: str) -> Cell:
    return lambda obj, now: age(at(obj, path), now) if at(obj, path) else "<unknown>"


def _size(*paths: str) -> Cell:
    return lambda obj, _now: sum(len(at(obj, path) or ()) for path in paths)


def _selector(path: str) -> Cell:
    return lambda obj, _now: ",".join(f"{k}={v}" for k, v in (at(obj, path) or {}).items()) or _PENDING


def _pod_ready(obj: Obj, _now: float) -> str:
    sidecars = {one.get("name") for one in at(obj, "spec.initContainers") or () if one.get("restartPolicy") == "Always"}
    statuses = [
        *(at(obj, "status.containerStatuses") or ()),
        *(one for one in at(obj, "status.initContainerStatuses") or () if one.get("name") in sidecars),
    ]
    ready = sum(bool(one.get("ready")) for one in statuses)
    return f"{ready}/{len(at(obj, 'spec.containers') or ()) + len(sidecars)}"


def _pod_status(obj: Obj, _now: float) -> str:
    if at(obj, "metadata.deletionTimestamp"):
        return "Terminating"
    unfinished = _init_status(obj)
    if unfinished:
        return unfinished
    # As in kubectl, the first container in the list that has a reason determines the status.
    reasons = (_container_reason(one) for one in at(obj, "status.containerStatuses") or ())
    reason = next(filter(None, reasons), "")
    return str(reason or at(obj, "status.reason") or at(obj, "status.phase") or "Pending")


def _init_status(obj: Obj) -> str:
    """`Init:…` of the first init container that is not done; empty if all are."""
    specs = {one.get("name"): one for one in at(obj, "spec.initContainers") or ()}
    for number, one in enumerate(at(obj, "status.initContainerStatuses") or ()):
        state = one.get("state") or {}
        sidecar = specs.get(one.get("name"), {}).get("restartPolicy") == "Always"
        if at(state, "terminated.exitCode") == 0 or (sidecar and one.get("started")):
            continue
        if "terminated" in state:
            return f"Init:{state['terminated'].get('reason') or 'Error'}"
        waiting = at(state, "waiting.reason")
        return f"Init:{waiting}" if waiting and waiting != "PodInitializing" else f"Init:{number}/{len(specs)}"
    return ""


def _container_reason(status: dict[str, Any]) -> str:
    """Why a container does not run; empty if it runs."""
    state = status.get("state") or {}
    if reason := at(state, "waiting.reason"):
        return reason
    if "terminated" in state:
        return state["terminated"].get("reason") or f"ExitCode:{state['terminated'].get('exitCode')}"
    return ""


def _pod_restarts(obj: Obj, now: float) -> str:
    statuses = [*(at(obj, "status.containerStatuses") or ()), *(at(obj, "status.initContainerStatuses") or ())]
    count = sum(one.get("restartCount", 0) for one in statuses)
    ends = [at(one, "lastState.terminated.finishedAt") for one in statuses]
    last = max((end for end in ends if end), default=None)
    return f"{count} ({age(last, now)} ago)" if count and last else str(count)


def _service_ports(obj: Obj, _now: float) -> str:
    ports = at(obj, "spec.ports") or ()
    shown = [
        f"{p.get('port')}" + (f":{p['nodePort']}" if p.get("nodePort") else "") + f"/{p.get('protocol', 'TCP')}"
        for p in ports
    ]
    return ",".join(shown) or _PENDING


def _replicas(obj: Obj, _now: float) -> str:
    return f"{at(obj, 'status.readyReplicas') or 0}/{at(obj, 'spec.replicas') or 0}"


def _slice_ports(obj: Obj, _now: float) -> str:
    return ",".join(str(port.get("port")) for port in obj.get("ports") or ()) or "<unset>"


def _slice_addresses(obj: Obj, _now: float) -> str:
    found = [address for endpoint in obj.get("endpoints") or () for address in endpoint.get("addresses") or ()]
    more = f" + {len(found) - 3} more..." if len(found) > 3 else ""
    return (",".join(found[:3]) + more) or "<unset>"


def _endpoints(obj: Obj, _now: float) -> str:
    pairs = [
        f"{address.get('ip')}:{port.get('port')}"
        for subset in obj.get("subsets") or ()
        for address in subset.get("addresses") or ()
        for port in subset.get("ports") or ()
    ]
    more = f" + {len(pairs) - 3} more..." if len(pairs) > 3 else ""
    return (",".join(pairs[:3]) + more) or _PENDING


def _containers(what: str) -> Cell:
    return lambda obj, _now: (
        ",".join(str(one.get(what) or "") for one in at(obj, "spec.template.spec.containers") or ()) or _PENDING
    )


def _node_status(obj: Obj, _now: float) -> str:
    conditions = at(obj, "status.conditions") or ()
    ready = next((one.get("status") for one in conditions if one.get("type") == "Ready"), "Unknown")
    return "Ready" if ready == "True" else "NotReady"


def _node_address(obj: Obj, _now: float) -> str:
    addresses = at(obj, "status.addresses") or ()
    return next((one.get("address") for one in addresses if one.get("type") == "InternalIP"), _PENDING)


def _event_object(obj: Obj, _now: float) -> str:
    involved = obj.get("involvedObject") or {}
    return f"{str(involved.get('kind', '')).lower()}/{involved.get('name', '')}"


def _event_seen(obj: Obj, now: float) -> str:
    return age(obj.get("lastTimestamp") or obj.get("eventTime") or at(obj, "metadata.creationTimestamp"), now)


def _roles(obj: Obj, _now: float) -> str:
    ref = obj.get("roleRef") or {}
    return f"{ref.get('kind')}/{ref.get('name')}"


NAME = PrinterColumn("Name", field("metadata.name", ""), format="name")
AGE = PrinterColumn("Age", _since("metadata.creationTimestamp"))
DEFAULT = (NAME, AGE)

_ACCESS = {"ReadWriteOnce": "RWO", "ReadOnlyMany": "ROX", "ReadWriteMany": "RWX", "ReadWriteOncePod": "RWOP"}


def _claim_status(obj: Obj, _now: float) -> str:
    return "Terminating" if at(obj, "metadata.deletionTimestamp") else str(at(obj, "status.phase") or "Pending")


def _claim_access(obj: Obj, _now: float) -> str:
    return ",".join(_ACCESS.get(str(mode), str(mode)) for mode in at(obj, "status.accessModes") or ())


BUILT_IN: dict[str, tuple[PrinterColumn, ...]] = {
    "namespaces": (NAME, PrinterColumn("Status", field("status.phase", "Active")), AGE),
    "serviceaccounts": (NAME, PrinterColumn("Secrets", _size("secrets"), "integer"), AGE),
    "services": (
        NAME,
        PrinterColumn("Type", field("spec.type", "ClusterIP")),
        PrinterColumn("Cluster-IP", field("spec.clusterIP")),
        PrinterColumn("External-IP", field("spec.externalName")),
        PrinterColumn("Port(s)", _service_ports),
        AGE,
        PrinterColumn("Selector", _selector("spec.selector"), priority=1),
    ),
    "endpoints": (NAME, PrinterColumn("Endpoints", _endpoints), AGE),
    "endpointslices.discovery.k8s.io": (
        NAME,
        PrinterColumn("AddressType", field("addressType")),
        PrinterColumn("Ports", _slice_ports),
        PrinterColumn("Endpoints", _slice_addresses),
        AGE,
    ),
    "pods": (
        NAME,
        PrinterColumn("Ready", _pod_ready),
        PrinterColumn("Status", _pod_status),
        PrinterColumn("Restarts", _pod_restarts),
        AGE,
        PrinterColumn("IP", field("status.podIP"), priority=1),
        PrinterColumn("Node", field("spec.nodeName"), priority=1),
        PrinterColumn("Nominated Node", field("status.nominatedNodeName"), priority=1),
        PrinterColumn("Readiness Gates", lambda _obj, _now: _PENDING, priority=1),
    ),
    "nodes": (
        NAME,
        PrinterColumn("Status", _node_status),
        PrinterColumn("Roles", lambda _obj, _now: "control-plane"),
        AGE,
        PrinterColumn("Version", field("status.nodeInfo.kubeletVersion", "")),
        PrinterColumn("Internal-IP", _node_address, priority=1),
    ),
    "events": (
        PrinterColumn("Last Seen", _event_seen),
        PrinterColumn("Type", field("type", "")),
        PrinterColumn("Reason", field("reason", "")),
        PrinterColumn("Object", _event_object),
        PrinterColumn("Message", field("message", "")),
        PrinterColumn("Name", field("metadata.name", ""), format="name", priority=1),
    ),
    "deployments.apps": (
        NAME,
        PrinterColumn("Ready", _replicas),
        PrinterColumn("Up-to-date", field("status.updatedReplicas", 0), "integer"),
        PrinterColumn("Available", field("status.availableReplicas", 0), "integer"),
        AGE,
        PrinterColumn("Containers", _containers("name"), priority=1),
        PrinterColumn("Images", _containers("image"), priority=1),
        PrinterColumn("Selector", _selector("spec.selector.matchLabels"), priority=1),
    ),
    "replicasets.apps": (
        NAME,
        PrinterColumn("Desired", field("spec.replicas", 0), "integer"),
        PrinterColumn("Current", field("status.replicas", 0), "integer"),
        PrinterColumn("Ready", field("status.readyReplicas", 0), "integer"),
        AGE,
    ),
    "statefulsets.apps": (NAME, PrinterColumn("Ready", _replicas), AGE),
    "persistentvolumeclaims": (
        NAME,
        PrinterColumn("Status", _claim_status),
        PrinterColumn("Volume", field("spec.volumeName", "")),
        PrinterColumn("Capacity", field("status.capacity.storage", "")),
        PrinterColumn("Access Modes", _claim_access),
        PrinterColumn("StorageClass", field("spec.storageClassName", "")),
        PrinterColumn("VolumeAttributesClass", field("spec.volumeAttributesClassName", "<unset>")),
        AGE,
        PrinterColumn("VolumeMode", field("spec.volumeMode", ""), priority=1),
    ),
    "configmaps": (NAME, PrinterColumn("Data", _size("data", "binaryData"), "integer"), AGE),
    "secrets": (
        NAME,
        PrinterColumn("Type", field("type", "Opaque")),
        PrinterColumn("Data", _size("data"), "integer"),
        AGE,
    ),
    "leases.coordination.k8s.io": (NAME, PrinterColumn("Holder", field("spec.holderIdentity", "")), AGE),
    "customresourcedefinitions.apiextensions.k8s.io": (
        NAME,
        PrinterColumn("Created At", field("metadata.creationTimestamp", ""), "date"),
    ),
    "mutatingwebhookconfigurations.admissionregistration.k8s.io": (
        NAME,
        PrinterColumn("Webhooks", _size("webhooks"), "integer"),
        AGE,
    ),
    "validatingwebhookconfigurations.admissionregistration.k8s.io": (
        NAME,
        PrinterColumn("Webhooks", _size("webhooks"), "integer"),
        AGE,
    ),
    "rolebindings.rbac.authorization.k8s.io": (NAME, PrinterColumn("Role", _roles), AGE),
    "clusterrolebindings.rbac.authorization.k8s.io": (NAME, PrinterColumn("Role", _roles), AGE),
    "roles.rbac.authorization.k8s.io": (NAME, PrinterColumn("Created At", field("metadata.creationTimestamp", ""))),
    "clusterroles.rbac.authorization.k8s.io": (
        NAME,
        PrinterColumn("Created At", field("metadata.creationTimestamp", "")),
    ),
}
