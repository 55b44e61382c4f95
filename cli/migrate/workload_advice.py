"""Advice on namespaces, pods, Services, and the parts of Open Service Mesh itself. Pure."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from cli.kubernetes.api_client import Manifest
from cli.migrate.context import (
    MigrationContext,
    MigrationFinding,
    MigrationFindings,
    annotations_of,
    labels_of,
    namespace_of,
    ports_of,
)
from shared.kubernetes.windows_nodes import runs_on_windows
from shared.membership import is_ignored, mesh_of

PROXY_USER = 1500
_SIDECAR_LABEL = "osm-proxy-uuid"
_METRICS = "openservicemesh.io/metrics"
_METRICS_PORT = "15010"
_OSM_PARTS = frozenset({"osm-controller", "osm-injector", "osm-bootstrap"})
_ADD_ON_IMAGES = re.compile(r"(^|[./])mcr\.microsoft\.com/")
ADD_ON_ENDS = "2027-09-30"
"""The last day on which AKS runs the add-on."""
NO_SERIES = "sidecars here serve no metrics at port 15010 yet"


def namespace(one: Manifest, _scene: MigrationContext) -> MigrationFindings:
    """A Namespace: a member moves with its label."""
    name = one["metadata"]["name"]
    if is_ignored(labels_of(one)):
        yield MigrationFinding("carries over", "stays ignored")
        return
    mesh = mesh_of(labels_of(one))
    if mesh is None:
        return
    yield MigrationFinding(
        "to do",
        f"is a member of {mesh!r}; the label and the annotation for injection are the same here",
        f"`meshlog namespace remove {name} --mesh-name {mesh}`, `meshlog namespace add {name}`, restart its pods",
    )
    if annotations_of(one).get(_METRICS, "").lower() == "enabled":
        yield MigrationFinding(
            "not yet", f"annotation {_METRICS} is kept and has no effect: {NO_SERIES}", "keep other alerts"
        )


def workload(one: Manifest, scene: MigrationContext) -> MigrationFindings:
    """A Pod, or an object with a template of pods."""
    where = namespace_of(one)
    if not scene.is_member(where):
        return
    is_pod = one["kind"] == "Pod"
    template: Mapping[str, Any] = one if is_pod else _template(one)
    spec: Mapping[str, Any] = template.get("spec") or {}
    metadata: Mapping[str, Any] = template.get("metadata") or {}
    if runs_on_windows(spec):
        yield MigrationFinding(
            "not yet", "runs on Windows, where there is no sidecar yet", "leave its namespace where it is"
        )
        return
    if is_pod and _SIDECAR_LABEL in labels_of(one):
        yield MigrationFinding("to do", "has Open Service Mesh's sidecar", "restart it once its namespace has moved")
    for container in [*(spec.get("containers") or []), *(spec.get("initContainers") or [])]:
        user = (container.get("securityContext") or {}).get("runAsUser")
        user = (spec.get("securityContext") or {}).get("runAsUser") if user is None else user
        if container.get("name") != "envoy" and user == PROXY_USER:
            text = f"container {container.get('name')} runs as user {PROXY_USER}, the proxy's"
            yield MigrationFinding("to do", text, "give it another user")
    scraped: Mapping[str, str] = metadata.get("annotations") or {}
    if scraped.get("prometheus.io/port") == _METRICS_PORT:
        yield MigrationFinding(
            "not yet", f"is annotated to be scraped at port {_METRICS_PORT}: {NO_SERIES}", "keep other alerts"
        )


def _template(one: Manifest) -> Mapping[str, Any]:
    spec: Mapping[str, Any] = one.get("spec") or {}
    if one["kind"] == "CronJob":
        spec = (spec.get("jobTemplate") or {}).get("spec") or {}
    return spec.get("template") or {}


def deployment(one: Manifest, scene: MigrationContext) -> MigrationFindings:
    """A Deployment: a workload, or a part of Open Service Mesh."""
    name = one["metadata"]["name"]
    if name not in _OSM_PARTS:
        if not scene.complete:  # else its pods are listed too, with the same advice
            yield from workload(one, scene)
        return
    containers: list[Mapping[str, Any]] = (_template(one).get("spec") or {}).get("containers") or [{}]
    image = str(containers[0].get("image", ""))
    if _ADD_ON_IMAGES.search(image) or namespace_of(one) == "kube-system":
        yield MigrationFinding(
            "to do",
            f"is the AKS add-on ({image}), which is supported until {ADD_ON_ENDS}",
            "disable it last: `az aks disable-addons --addons open-service-mesh` (it has no Helm release)",
        )
    else:
        text = f"is Open Service Mesh itself ({image})"
        yield MigrationFinding("to do", text, "uninstall it last, with `osm uninstall mesh`")


def webhook(one: Manifest, _scene: MigrationContext) -> MigrationFindings:
    """A webhook configuration of Open Service Mesh, whatever the name of its mesh."""
    name = one["metadata"]["name"]
    if name.startswith(("osm-webhook-", "osm-validator-", "aks-osm-")):
        yield MigrationFinding(
            "to do",
            "is Open Service Mesh's webhook: it acts on namespaces that carry its mesh's name",
            "it goes with Open Service Mesh; until then give the new mesh another name",
        )


def service(one: Manifest, scene: MigrationContext) -> MigrationFindings:
    """A Service: ports to which the two meshes assign different protocols."""
    if not scene.is_member(namespace_of(one)):
        return
    for port in (one.get("spec") or {}).get("ports") or []:
        if port.get("protocol", "TCP") != "TCP":
            text = f"port {port.get('port', '?')} is {port['protocol']}: it passes beside the sidecar, as before"
            yield MigrationFinding("carries over", text)
    for port in ports_of(one):
        if port.here == port.there:
            continue
        here = "HTTP" if port.here == "http" else "bytes, opened by TCPRoutes"
        if port.there in {"http", "tcp"}:
            there = "HTTP" if port.there == "http" else "bytes"
            yield MigrationFinding(
                "differs",
                f"port {port.number} is {there} to Open Service Mesh, and by its name or appProtocol {here} here",
                "write the appProtocol that is meant (http, grpc, tcp or tcp-server-first) before the move",
            )
        else:
            yield MigrationFinding(
                "differs",
                f"port {port.number} says appProtocol {port.there!r}, which Open Service Mesh does not know: it "
                f"configures nothing for the port, which is {here} here",
            )


def root(one: Manifest, _scene: MigrationContext) -> MigrationFindings:
    """A MeshRootCertificate."""
    spec: Mapping[str, Any] = one.get("spec") or {}
    provider = ", ".join(spec.get("provider") or {}) or "none"
    yield MigrationFinding(
        "differs",
        f"names {provider} as its provider; certificates here carry "
        "spiffe://<trust domain>/ns/<namespace>/sa/<account>, from a CA of the new mesh",
        "sidecars of the two meshes do not trust each other: move namespaces that call each other together",
    )
