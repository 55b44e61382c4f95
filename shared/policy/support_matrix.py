"""What of the resources that Open Service Mesh and SMI users have is in force here, field by field: one table.

Statuses and admission answer from it ("not supported yet: sidecar.cipherSuites"), `meshlog migrate osm` explains from
it, and docs/mesh-config.md is it in words. A field that the schemas know and the table does not fails a test, and so
does a row that the bytes of sidecars, pods or certificates contradict (`tests/unit/shared/test_support_is_true.py`).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, Literal, cast

import msgspec

State = Literal["works", "differs", "needless", "not yet"]
Reader = Literal["", "compiler", "injector", "CA", "ingestor"]


class Support(msgspec.Struct, frozen=True):
    """One row."""

    state: State
    """`works` as its users know it; `differs` as `note` describes; `needless`: taken and without effect, because what
    it was for needs no setting here; `not yet`: taken, not in force, and its object's status shows it."""
    note: str = ""
    reader: Reader = ""
    """Which service acts on a field: the compiler at once, the injector in new pods, the CA at the next renewal; empty:
    none."""


class FieldFinding(msgspec.Struct, frozen=True):
    """A field of an object that is not simply in force."""

    path: str
    """Below `spec`: `sidecar.cipherSuites`; empty: the kind as a whole."""
    support: Support


_WORKS = Support("works", reader="compiler")
_NOT_YET = Support("not yet")
_NEEDLESS = Support("needless")
_NEW_PODS = Support("works", "for pods created from then on", "injector")

KINDS: Mapping[str, Support] = {
    "TrafficTarget": _WORKS,
    "IdentityBinding": _WORKS,
    "HTTPRouteGroup": _WORKS,
    "TCPRoute": _WORKS,
    "UDPRoute": Support("not yet", "the route is read; sidecars carry TCP only"),
    "TrafficSplit": _WORKS,
    "MeshConfig": _WORKS,
    "MeshRootCertificate": Support(
        "differs", "identities are always SPIFFE ids; a root is changed by what proxies acknowledged", "CA"
    ),
    "Egress": _NOT_YET,
    "IngressBackend": _NOT_YET,
    "Retry": _NOT_YET,
    "UpstreamTrafficSetting": _NOT_YET,
    "Telemetry": _NOT_YET,
    "ExtensionService": _NOT_YET,
}
"""Kinds as wholes."""

_ONLY_KIND = Support("needless", "it can only be an HTTPRouteGroup")
_ONE_NAMESPACE = Support("differs", "Secrets are read in the mesh's own namespace")
FIELDS: Mapping[str, Mapping[str, Support]] = {
    "TCPRoute": {"matches.name": Support("needless", "nothing refers to it")},
    "TrafficSplit": {"matches[].apiGroup": _ONLY_KIND, "matches[].kind": _ONLY_KIND},
    "MeshRootCertificate": {
        "spiffeEnabled": Support("needless", "identities are always SPIFFE ids"),
        "provider.builtin.ca.secretRef.namespace": _ONE_NAMESPACE,
        "provider.tresor.ca.secretRef.namespace": _ONE_NAMESPACE,
        "provider.vault.token.secretKeyRef.namespace": _ONE_NAMESPACE,
    },
}
"""Of kinds that are in force: the fields that are not, or not simply. All others are as their kind."""

MESH_CONFIG: Mapping[str, Support] = {
    "sidecar.enablePrivilegedInitContainer": _NEW_PODS,
    "sidecar.logLevel": _NEW_PODS,
    "sidecar.envoyImage": Support(
        "works", "for pods created from then on; images older than Envoy 1.36 are refused", "injector"
    ),
    "sidecar.envoyWindowsImage": Support("not yet", "sidecars run on Linux only"),
    "sidecar.initContainerImage": Support(
        "differs", "for new pods; the image must hold the meshlog command; Open Service Mesh's are refused", "injector"
    ),
    "sidecar.maxDataPlaneConnections": _NOT_YET,
    "sidecar.maxInboundConnections": Support("works", "for pods created from then on; default: 10000", "injector"),
    "sidecar.configResyncInterval": Support("needless", "what a proxy holds is known from its acknowledgements"),
    "sidecar.resources.limits": _NEW_PODS,
    "sidecar.resources.requests": _NEW_PODS,
    "sidecar.tlsMinProtocolVersion": Support("not yet", "connections between sidecars use TLS 1.2 or newer"),
    "sidecar.tlsMaxProtocolVersion": Support("not yet", "connections between sidecars use up to TLS 1.3"),
    "sidecar.cipherSuites": _NOT_YET,
    "sidecar.ecdhCurves": _NOT_YET,
    "sidecar.localProxyMode": _NEW_PODS,
    "traffic.enableEgress": Support(
        "works",
        "live; true opens every destination outside the mesh, unmeshed Services too; default: false",
        "compiler",
    ),
    "traffic.enablePermissiveTrafficPolicyMode": Support("works", "live; default: false", "compiler"),
    "traffic.escapedSlashes": Support("works", "live; default: Reject; see policy.md, Paths", "compiler"),
    "traffic.trustedForwarders": Support("works", "live; see policy.md, Headers that are not believed", "compiler"),
    "traffic.outboundIPRangeExclusionList": _NEW_PODS,
    "traffic.outboundIPRangeInclusionList": _NEW_PODS,
    "traffic.outboundPortExclusionList": _NEW_PODS,
    "traffic.inboundPortExclusionList": _NEW_PODS,
    "traffic.networkInterfaceExclusionList": _NEW_PODS,
    "traffic.inboundExternalAuthorization": _NOT_YET,
    "observability.osmLogLevel": Support("not yet", "the services' own MESHLOG_LOG_LEVEL rules"),
    "observability.enableDebugServer": Support("needless", "`meshlog status` and the log answer"),
    "observability.tracing": _NOT_YET,
    "certificate.serviceCertValidityDuration": Support("works", "live, at the next renewal", "CA"),
    "certificate.certKeyBitSize": Support("works", "live, at the next renewal; default: P-256", "CA"),
    "certificate.ingressGateway": Support(
        "differs", "all its names are used; the setting gateway_secret lets the CA write it", "CA"
    ),
    "featureFlags.enableWASMStats": _NOT_YET,
    "featureFlags.enableEgressPolicy": Support("not yet", "no Egress is in force"),
    "featureFlags.enableMulticlusterMode": _NEEDLESS,
    "featureFlags.enableSnapshotCacheMode": _NEEDLESS,
    "featureFlags.enableAsyncProxyServiceMapping": _NEEDLESS,
    "featureFlags.enableIngressBackendPolicy": Support("not yet", "no IngressBackend is in force"),
    "featureFlags.enableEnvoyActiveHealthChecks": _NOT_YET,
    "featureFlags.enableRetryPolicy": Support("not yet", "no Retry is in force"),
    "featureFlags.enableMeshRootCertificate": Support("needless", "MeshRootCertificates need no switch"),
}
"""Every field of MeshConfig; a row of a whole part stands for all of its fields."""

_LIVE = Support("works", "live", "compiler")
MARKS: Mapping[str, Mapping[str, Support]] = {
    "Namespace": {
        "openservicemesh.io/monitored-by": Support("works", "label; live, sidecars for new pods", "compiler"),
        "openservicemesh.io/ignore": Support("works", "label; live, whatever its value", "compiler"),
        "openservicemesh.io/sidecar-injection": _NEW_PODS,
        "openservicemesh.io/metrics": Support("not yet", "sidecars serve no metrics at port 15010"),
        "meshlog.io/permissive": _LIVE,
        "meshlog.io/calls": _LIVE,
        "meshlog.io/escaped-slashes": _LIVE,
        "meshlog.io/trusted-forwarders": _LIVE,
    },
    "Pod": {
        "openservicemesh.io/sidecar-injection": _NEW_PODS,
        "openservicemesh.io/outbound-ip-range-exclusion-list": _NEW_PODS,
        "openservicemesh.io/outbound-ip-range-inclusion-list": _NEW_PODS,
        "openservicemesh.io/outbound-port-exclusion-list": _NEW_PODS,
        "openservicemesh.io/inbound-port-exclusion-list": _NEW_PODS,
        "meshlog.io/proxyless": _LIVE,
    },
    "any": {
        "meshlog.io/change-set": Support("works", "objects that name one set enter one version", "ingestor"),
    },
}
"""Annotations (and labels, which the note names) by the kind of object that carries them."""


def findings(kind: str, spec: Mapping[str, Any]) -> list[FieldFinding]:
    """What of an object is not simply in force; a field that asks for nothing (false, 0, empty) is not mentioned.

    A kind that is not in the table belongs to another product: it has no findings.
    """
    whole = KINDS.get(kind, _WORKS)
    if whole.state != "works":
        return [FieldFinding("", whole)]
    if kind != "MeshConfig":
        return []
    found: dict[str, Support] = {}
    for path, value in _leaves(spec, ""):
        name = row(path)
        if name and MESH_CONFIG[name].state != "works" and _asks(path, value):
            found[name] = MESH_CONFIG[name]
    return [FieldFinding(path, support) for path, support in sorted(found.items())]


def row(path: str) -> str:
    """The row of MeshConfig that a field belongs to: its own, or that of the part it is in; empty: there is none."""
    return next((name for name in _prefixes(path) if name in MESH_CONFIG), "")


def sentence(found: list[FieldFinding]) -> str:
    """For a status condition: what is not supported yet; empty if all is."""
    missing = [one for one in found if one.support.state == "not yet"]
    if not missing:
        return ""
    if not missing[0].path:
        note = missing[0].support.note
        return f"this kind is not supported yet{f' ({note})' if note else ''}: it is kept and has no effect"
    return "not supported yet: " + ", ".join(one.path for one in missing)


_DEFAULTS = {
    "sidecar.tlsMinProtocolVersion": "TLSv1_2",
    "sidecar.tlsMaxProtocolVersion": "TLSv1_3",
    "sidecar.configResyncInterval": "0s",
    "certificate.certKeyBitSize": 2048,
    "observability.osmLogLevel": "info",
}
"""What every installation of Open Service Mesh has there: it asks for nothing."""


def _asks(path: str, value: Any) -> bool:
    if path.startswith(("observability.tracing.", "traffic.inboundExternalAuthorization.")):
        # Addresses of what is switched off ask for nothing.
        return path.endswith(".enable") and bool(value)
    return bool(value) and value != _DEFAULTS.get(path)


def _leaves(value: Mapping[str, Any], path: str) -> Iterator[tuple[str, Any]]:
    for key, each in value.items():
        here = f"{path}.{key}" if path else key
        if isinstance(each, dict):
            yield from _leaves(cast("dict[str, Any]", each), here)
        else:
            yield here, each


def _prefixes(path: str) -> Iterator[str]:
    parts = path.split(".")
    for length in range(len(parts), 0, -1):
        yield ".".join(parts[:length])
