"""Advice on the values of Open Service Mesh's chart. Pure."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, cast

from cli.kubernetes.api_client import Manifest
from cli.migrate.context import MigrationContext, MigrationFinding, MigrationFindings
from cli.migrate.mesh_config import fields

HELM_VALUES = "HelmValues"
"""Kind that stands for the chart's values, so that they can be handled as an object."""
_CHART = ("osm", "OpenServiceMesh")
"""Top-level key of the values: since 1.0, and before."""
_FIELDS: Mapping[str, str] = {
    "enablePermissiveTrafficPolicy": "traffic.enablePermissiveTrafficPolicyMode",
    "enableEgress": "traffic.enableEgress",
    "outboundIPRangeExclusionList": "traffic.outboundIPRangeExclusionList",
    "outboundIPRangeInclusionList": "traffic.outboundIPRangeInclusionList",
    "outboundPortExclusionList": "traffic.outboundPortExclusionList",
    "inboundPortExclusionList": "traffic.inboundPortExclusionList",
    "networkInterfaceExclusionList": "traffic.networkInterfaceExclusionList",
    "envoyLogLevel": "sidecar.logLevel",
    "localProxyMode": "sidecar.localProxyMode",
    "maxDataPlaneConnections": "sidecar.maxDataPlaneConnections",
    "configResyncInterval": "sidecar.configResyncInterval",
    "enablePrivilegedInitContainer": "sidecar.enablePrivilegedInitContainer",
    "sidecarImage": "sidecar.envoyImage",
    "sidecarWindowsImage": "sidecar.envoyWindowsImage",
    "controllerLogLevel": "observability.osmLogLevel",
    "enableDebugServer": "observability.enableDebugServer",
    "tracing": "observability.tracing",
    "featureFlags": "featureFlags",
    "certificateProvider.serviceCertValidityDuration": "certificate.serviceCertValidityDuration",
    "certificateProvider.certKeyBitSize": "certificate.certKeyBitSize",
}
"""Values that only set fields of a new installation's MeshConfig."""
_OPTIONS = {
    "meshName": "--mesh-name {}",
    "osmNamespace": "--osm-namespace {}",
    "enforceSingleMesh": "--enforce-single-mesh {}",
    "trustDomain": "--set trust_domain={}",
}
"""Values that are options of `meshlog install`."""
_ABSENT = {
    "deployPrometheus": ("Prometheus is not brought along here", "keep, or install, one of your own"),
    "deployGrafana": ("Grafana is not brought along here", "keep, or install, one of your own"),
    "deployJaeger": ("Jaeger is not brought along here", "keep, or install, one of your own"),
    "enableFluentbit": ("Fluent Bit is not brought along here", "keep, or install, one of your own"),
    "enableReconciler": ("edits of webhooks are not reverted here", "`meshlog verify control-plane` names them"),
}
_OWN_PARTS = ("osmController", "injector", "osmBootstrap", "preinstall", "cleanup", "image", "imagePullSecrets")
"""Values that size Open Service Mesh's own parts."""
_PART_OF_ADD_ONS = ("prometheus", "grafana", "fluentBit")


def helm_values(document: object) -> Manifest | None:
    """A document that holds values of the chart, as an object; None if it is something else."""
    if not isinstance(document, dict) or "kind" in document:
        return None
    parts = cast("dict[str, Any]", document)
    key = next((name for name in _CHART if isinstance(parts.get(name), dict)), None)
    if key is None:
        return None
    return {"apiVersion": "v1", "kind": HELM_VALUES, "metadata": {"name": key}, "spec": parts[key]}


def values(one: Manifest, _scene: MigrationContext) -> MigrationFindings:
    """The values of an installation: its MeshConfig, its options, and Open Service Mesh's own parts."""
    chart: Mapping[str, Any] = one["spec"]
    spec: dict[str, Any] = {}
    for name, value in _leaves(chart):
        field = _field(name)
        if field:
            _put(spec, field, value)
        else:
            yield from _setting(name, value)
    yield from fields(spec)
    if any(part in chart for part in _OWN_PARTS):
        yield MigrationFinding("carries over", "sizes and images of Open Service Mesh's own parts have no meaning here")


def _field(name: str) -> str:
    """The field of the MeshConfig that a value sets; empty if there is none."""
    for value, field in _FIELDS.items():
        if name == value or name.startswith(f"{value}."):
            return field + name.removeprefix(value)
    return ""


def _setting(name: str, value: object) -> MigrationFindings:
    if name.partition(".")[0] in (*_OWN_PARTS, *_PART_OF_ADD_ONS) or value in (None, "", [], {}, False):
        return
    if name in _OPTIONS:
        yield MigrationFinding("carries over", f"{name} is `meshlog install {_OPTIONS[name].format(value)}`")
    elif name in _ABSENT:
        text, action = _ABSENT[name]
        yield MigrationFinding("not yet", f"{name}: {text}", action)
    elif name == "certificateProvider.kind":
        if value != "tresor":
            text = f"{name}: {value} signs the old mesh's certificates"
            yield MigrationFinding("differs", text, "docs/identity.md says how a CA of the new mesh uses it")
    else:
        yield MigrationFinding("differs", f"{name} is not read here", "`meshlog install --help` lists the settings")


def _leaves(value: Mapping[str, Any], path: str = "") -> Iterator[tuple[str, Any]]:
    for key, each in value.items():
        here = f"{path}.{key}" if path else str(key)
        if isinstance(each, dict) and each:
            yield from _leaves(cast("dict[str, Any]", each), here)
        else:
            yield here, each


def _put(spec: dict[str, Any], path: str, value: object) -> None:
    *parents, last = path.split(".")
    for name in parents:
        spec = spec.setdefault(name, {})
    spec[last] = value
