"""The table of what is in force knows every field that the schemas know, and what an object asks for."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml

from shared.policy import support_matrix

CRDS = Path(__file__).parents[4] / "deploy" / "crds"


def fields(schema: dict[str, Any], path: str = "") -> Iterator[str]:
    properties = schema.get("properties")
    if not properties:
        yield path
    for name, each in (properties or {}).items():
        yield from fields(each, f"{path}.{name}" if path else name)


def test_every_kind_that_is_defined_has_a_row() -> None:
    defined = {yaml.safe_load(path.read_text())["spec"]["names"]["kind"] for path in CRDS.glob("*.yaml")}
    assert defined <= set(support_matrix.KINDS)


def test_every_field_of_the_mesh_config_has_a_row_and_every_row_a_field() -> None:
    crd = yaml.safe_load((CRDS / "meshconfigs.config.openservicemesh.io.yaml").read_text())
    schema = crd["spec"]["versions"][0]["schema"]["openAPIV3Schema"]["properties"]["spec"]
    known = list(fields(schema))
    unknown = [
        path
        for path in known
        if not any(path == row or path.startswith(f"{row}.") for row in support_matrix.MESH_CONFIG)
    ]
    assert unknown == []
    unused = [
        row
        for row in support_matrix.MESH_CONFIG
        if not any(path == row or path.startswith(f"{row}.") for path in known)
    ]
    assert unused == []


def test_an_untouched_installation_asks_for_nothing_that_is_missing_but_the_stats() -> None:
    """The MeshConfig of a fresh `osm install`."""
    spec = {
        "sidecar": {
            "enablePrivilegedInitContainer": False,
            "logLevel": "error",
            "maxDataPlaneConnections": 0,
            "configResyncInterval": "0s",
            "resources": {},
            "tlsMinProtocolVersion": "TLSv1_2",
            "tlsMaxProtocolVersion": "TLSv1_3",
            "localProxyMode": "Localhost",
        },
        "traffic": {
            "enableEgress": True,
            "enablePermissiveTrafficPolicyMode": True,
            "inboundExternalAuthorization": {"enable": False, "statPrefix": "inboundExtAuthz", "timeout": "1s"},
        },
        "observability": {
            "osmLogLevel": "info",
            "tracing": {"enable": False, "port": 9411, "address": "jaeger.osm-system.svc.cluster.local"},
        },
        "certificate": {"serviceCertValidityDuration": "24h", "certKeyBitSize": 2048},
        "featureFlags": {"enableWASMStats": True, "enableRetryPolicy": False, "enableSnapshotCacheMode": False},
    }
    missing = [one.path for one in support_matrix.findings("MeshConfig", spec) if one.support.state == "not yet"]
    assert missing == ["featureFlags.enableWASMStats"]


def test_a_part_that_is_switched_on_is_named_once_by_its_row() -> None:
    spec = {"observability": {"tracing": {"enable": True, "address": "jaeger", "port": 9411}}}
    found = support_matrix.findings("MeshConfig", spec)
    assert [one.path for one in found] == ["observability.tracing"]
    assert support_matrix.sentence(found) == "not supported yet: observability.tracing"


def test_a_kind_that_has_no_effect_says_so_whatever_is_in_it() -> None:
    found = support_matrix.findings("Egress", {"hosts": ["x"]})
    assert support_matrix.sentence(found) == "this kind is not supported yet: it is kept and has no effect"
    assert support_matrix.findings("TrafficTarget", {"rules": []}) == []
    assert support_matrix.sentence([]) == ""


def lines() -> Iterator[str]:
    """The rows of the page for users."""
    for name, row in support_matrix.MESH_CONFIG.items():
        yield f"| `{name}` | {row.state} | {row.reader} | {row.note} |"
    for name, row in support_matrix.KINDS.items():
        yield f"| {name} | {row.state} | {row.note} |"
    for kind, rows in support_matrix.FIELDS.items():
        for name, row in rows.items():
            yield f"| {kind} `{name}` | {row.state} | {row.note} |"
    for kind, rows in support_matrix.MARKS.items():
        for name, row in rows.items():
            yield f"| {kind} | `{name}` | {row.state} | {row.reader} | {row.note} |"


def test_the_page_for_users_is_the_table() -> None:
    page = (CRDS.parents[1] / "docs" / "mesh-config.md").read_text().splitlines()
    table = list(lines())
    assert [line for line in table if line not in page] == []
    headed = ("| Here", "| **", "| Field of", "| Kind |", "| Field |", "| On |", "|---")
    assert [line for line in page if line.startswith("|") and not line.startswith(headed) and line not in table] == []
