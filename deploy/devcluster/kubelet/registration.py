"""The Node object. It is written once at start: there is no node controller that expects heartbeats. Pure."""

from __future__ import annotations

import platform

from deploy.devcluster import object_fields
from deploy.devcluster.cluster_api import Obj


def node_object(name: str) -> Obj:
    """The object to create."""
    labels = {
        "kubernetes.io/hostname": name,
        "kubernetes.io/os": "linux",
        "kubernetes.io/arch": platform.machine(),
        "node-role.kubernetes.io/control-plane": "",
    }
    return {"apiVersion": "v1", "kind": "Node", "metadata": {"name": name, "labels": labels}, "spec": {}}


def node_status(name: str, address: str, now: float) -> Obj:
    """The status: ready, at this address."""
    stamp = object_fields.timestamp(now)
    return {
        "addresses": [
            {"type": "InternalIP", "address": address},
            {"type": "Hostname", "address": name},
        ],
        "conditions": [
            {
                "type": "Ready",
                "status": "True",
                "reason": "KubeletReady",
                "message": "the node agent runs",
                "lastHeartbeatTime": stamp,
                "lastTransitionTime": stamp,
            }
        ],
        "nodeInfo": {
            "architecture": platform.machine(),
            "bootID": name,
            "containerRuntimeVersion": "process://1",
            "kernelVersion": platform.release(),
            "kubeProxyVersion": "",
            "kubeletVersion": "v1.33.0",
            "machineID": name,
            "operatingSystem": "linux",
            "osImage": platform.system(),
            "systemUUID": name,
        },
    }
