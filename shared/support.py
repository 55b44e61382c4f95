"""What of the resources that Open Service Mesh and SMI users have is in force here, field by field: one table.

Who writes statuses answers from it ("not supported yet: traffic.enableEgress"), `meshlog migrate osm` explains from
it, and docs/mesh-config.md is it in words. A field that the schemas know and the table does not fails a test; who
makes a field work changes its row.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, Literal, cast

import msgspec

State = Literal["works", "differs", "needless", "not yet"]


class Support(msgspec.Struct, frozen=True):
    """One row."""

    state: State
    """`works` as its users know it; `differs` in what `note` says; `needless`: taken and without effect, because what
    it was for needs no setting here; `not yet`: taken, not in force, and its object's status says so."""
    note: str = ""


class Finding(msgspec.Struct, frozen=True):
    """A field of an object that is not simply in force."""

    path: str
    """Below `spec`: `traffic.enableEgress`; empty: the kind as a whole."""
    support: Support


_WORKS = Support("works")
_NOT_YET = Support("not yet")
_NEEDLESS = Support("needless")
_NEW_PODS = Support("works", "for pods created from then on")

KINDS: Mapping[str, Support] = {
    "TrafficTarget": _WORKS,
    "IdentityBinding": _WORKS,
    "HTTPRouteGroup": _WORKS,
    "TCPRoute": _WORKS,
    "UDPRoute": Support("not yet", "the route is read; sidecars carry TCP only"),
    "TrafficSplit": _WORKS,
    "MeshConfig": _WORKS,
    "MeshRootCertificate": Support(
        "differs", "identities are always SPIFFE ids; a root is changed by what proxies acknowledged"
    ),
    "Egress": _NOT_YET,
    "IngressBackend": _NOT_YET,
    "Retry": _NOT_YET,
    "UpstreamTrafficSetting": _NOT_YET,
    "Telemetry": _NOT_YET,
    "ExtensionService": _NOT_YET,
}
"""Kinds as wholes."""

MESH_CONFIG: Mapping[str, Support] = {
    "sidecar.enablePrivilegedInitContainer": _NEW_PODS,
    "sidecar.logLevel": _NEW_PODS,
    "sidecar.envoyImage": _NEW_PODS,
    "sidecar.envoyWindowsImage": Support("not yet", "sidecars run on Linux only"),
    "sidecar.initContainerImage": Support("differs", "for new pods; the image must hold the meshlog command"),
    "sidecar.maxDataPlaneConnections": _NOT_YET,
    "sidecar.maxInboundConnections": Support("works", "for pods created from then on; 10000 where nothing is said"),
    "sidecar.configResyncInterval": Support("needless", "what a proxy holds is known from its acknowledgements"),
    "sidecar.resources.limits": _NEW_PODS,
    "sidecar.resources.requests": _NEW_PODS,
    "sidecar.tlsMinProtocolVersion": Support("not yet", "connections between sidecars use TLS 1.2 or newer"),
    "sidecar.tlsMaxProtocolVersion": Support("not yet", "connections between sidecars use up to TLS 1.3"),
    "sidecar.cipherSuites": _NOT_YET,
    "sidecar.ecdhCurves": _NOT_YET,
    "sidecar.localProxyMode": _NEW_PODS,
    "traffic.enableEgress": Support("not yet", "what no policy opens is closed, destinations outside included"),
    "traffic.enablePermissiveTrafficPolicyMode": Support("works", "live; false where nothing is said"),
    "traffic.escapedSlashes": Support("works", "live; Reject where nothing is said; see policy.md, Paths"),
    "traffic.trustedForwarders": Support("works", "live; see policy.md, Headers that are not believed"),
    "traffic.outboundIPRangeExclusionList": _NEW_PODS,
    "traffic.outboundIPRangeInclusionList": _NEW_PODS,
    "traffic.outboundPortExclusionList": _NEW_PODS,
    "traffic.inboundPortExclusionList": _NEW_PODS,
    "traffic.networkInterfaceExclusionList": _NEW_PODS,
    "traffic.inboundExternalAuthorization": _NOT_YET,
    "observability.osmLogLevel": Support("not yet", "the services' own MESHLOG_LOG_LEVEL rules"),
    "observability.enableDebugServer": Support("needless", "`meshlog status` and the log answer"),
    "observability.tracing": _NOT_YET,
    "certificate.serviceCertValidityDuration": Support("works", "live, at the next renewal"),
    "certificate.certKeyBitSize": Support("works", "live, at the next renewal; P-256 where nothing is said"),
    "certificate.ingressGateway": Support(
        "differs", "all its names are used; the setting gateway_secret lets the CA write it"
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


def findings(kind: str, spec: Mapping[str, Any]) -> list[Finding]:
    """What of an object is not simply in force; a field that asks for nothing (false, 0, empty) is not mentioned.

    A kind that the table does not know is none of ours: nothing is said about it.
    """
    whole = KINDS.get(kind, _WORKS)
    if whole.state != "works":
        return [Finding("", whole)]
    if kind != "MeshConfig":
        return []
    found: dict[str, Support] = {}
    for path, value in _leaves(spec, ""):
        row = next((name for name in _prefixes(path) if name in MESH_CONFIG), None)
        if row is not None and MESH_CONFIG[row].state != "works" and _asks(path, value):
            found[row] = MESH_CONFIG[row]
    return [Finding(path, support) for path, support in sorted(found.items())]


def sentence(found: list[Finding]) -> str:
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
