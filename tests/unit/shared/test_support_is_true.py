"""Every row of the table of support against bytes: it says "works" if, and only if, flipping the field changes some.

The bytes are those of all that a mesh puts out: the snapshot of a small mesh (which sidecars are sent), a new pod as
the injector makes it, and what the CA is told to issue. A field is tried with every kind of value that its schema
allows, so that a row which says "no effect" was given the chance to have one.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from functools import cache
from typing import Any

import pytest

from services.ca.core.cluster_state import ClusterState
from services.compiler.core.compiler import Compiler
from services.compiler.mesh_state import MeshSettings
from services.injector.core.decision import NamespaceMeta as InjectedNamespace
from services.injector.core.decision import decide
from services.injector.log.namespace_follower import NamespaceFold
from shared import projected_objects as projected
from shared.errors import MeshlogError
from shared.eventlog.memory import MemoryLog
from shared.identity.service_account_tokens import TokenVerifier
from shared.meshconfig.pods import MeshSpec
from shared.meshconfig.spec_problems import problems
from shared.policy import support_matrix
from shared.records.events import Event
from shared.records.snapshot import Snapshot
from tests.unit.compiler import objects
from tests.unit.identity.cluster import write
from tests.unit.injector import pods
from tests.unit.shared.outputs import CLUSTER, Json, Mesh, config, injected, issued, leaves, schema_of

ASKING: Mapping[str, Sequence[Any]] = {
    "sidecar.envoyImage": ["registry.example/envoy:v1.40.0"],
    "sidecar.envoyWindowsImage": ["registry.example/envoy-windows:v1.40.0"],
    "sidecar.initContainerImage": ["registry.example/meshlog:9"],
    "sidecar.configResyncInterval": ["1m"],
    "sidecar.resources.limits": [{"cpu": "2"}],
    "sidecar.resources.requests": [{"memory": "1Gi"}],
    "sidecar.cipherSuites": [["ECDHE-ECDSA-AES128-GCM-SHA256"]],
    "sidecar.ecdhCurves": [["P-256"]],
    "traffic.trustedForwarders": [["buy/buyer"]],
    "traffic.outboundIPRangeExclusionList": [["192.0.2.0/24"]],
    "traffic.outboundIPRangeInclusionList": [["192.0.2.0/24"]],
    "traffic.networkInterfaceExclusionList": [["net1"]],
    "traffic.inboundExternalAuthorization.address": ["10.96.1.1"],
    "traffic.inboundExternalAuthorization.statPrefix": ["another"],
    "traffic.inboundExternalAuthorization.timeout": ["7s"],
    "observability.osmLogLevel": ["debug", "error"],
    "observability.tracing.address": ["10.96.1.1"],
    "observability.tracing.endpoint": ["/api/v2/spans"],
    "certificate.serviceCertValidityDuration": ["3h"],
    "certificate.certKeyBitSize": [2048, 3072, 4096],
}
"""Values of fields whose schema does not say what may stand there."""
WITH: Mapping[str, Json] = {
    "traffic.inboundExternalAuthorization": {"enable": True, "address": "10.96.1.1", "port": 9000},
    "observability.tracing": {"enable": True, "address": "10.96.1.1", "port": 9411},
    "certificate.ingressGateway": {
        "subjectAltNames": ["gateway.example"],
        "validityDuration": "1h",
        "secret": {"name": "gateway", "namespace": "ingress"},
    },
}
"""What else is said where a field alone would ask for nothing."""
PART_OF_GATEWAY: Mapping[str, Any] = {
    "certificate.ingressGateway.subjectAltNames": ["other.example"],
    "certificate.ingressGateway.validityDuration": "2h",
    "certificate.ingressGateway.secret.name": "other",
    "certificate.ingressGateway.secret.namespace": "other",
}


@cache
def _mesh_config_fields() -> dict[str, Json]:
    return dict(leaves(schema_of("meshconfigs.config.openservicemesh.io.yaml")))


def _values(path: str, schema: Json) -> list[Any]:
    """Values that ask for something else than nothing does."""
    if path in PART_OF_GATEWAY:
        return [PART_OF_GATEWAY[path]]
    if path in ASKING:
        return list(ASKING[path])
    if "enum" in schema:
        return list(schema["enum"])
    match schema.get("type"):
        case "boolean":
            return [True, False]
        case "integer":
            return [schema.get("minimum", 0) + 1, min(schema.get("maximum", 5000), 5000)]
        case "array" if schema["items"].get("type") == "integer":
            return [[9999]]
        case _:
            pytest.fail(f"say in ASKING what may stand in {path}")


def _set(spec: Json, path: str, value: Any) -> None:
    *parents, last = path.split(".")
    for name in parents:
        spec = spec.setdefault(name, {})
    spec[last] = value


def _spec(path: str, value: Any) -> Json:
    made: Json = {}
    for part, rest in WITH.items():
        if path.startswith(f"{part}."):
            _set(made, part, json.loads(json.dumps(rest)))
    _set(made, path, value)
    return made


@pytest.fixture(scope="module")
def mesh() -> Mesh:
    return Mesh(objects.bookstore())


def _readers(mesh: Mesh, base: Json, spec: Json) -> set[str]:
    """Whose output differs between two MeshConfigs."""
    changed = {
        "compiler": mesh.take(config(base)) != mesh.take(config(spec)),
        "injector": injected(base) != injected(spec),
        "CA": issued(base) != issued(spec),
    }
    return {name for name, differs in changed.items() if differs}


@pytest.mark.parametrize("path", sorted(_mesh_config_fields()))
def test_a_field_of_the_mesh_config_has_the_effect_that_its_row_says(mesh: Mesh, path: str) -> None:
    row = support_matrix.MESH_CONFIG[support_matrix.row(path)]
    base: Json = {}
    for part, rest in WITH.items():
        if path.startswith(f"{part}."):
            _set(base, part, rest)
    seen: set[str] = set()
    for value in _values(path, _mesh_config_fields()[path]):
        seen |= _readers(mesh, base, _spec(path, value))
        seen |= _readers(mesh, {}, _spec(path, value))
    assert seen == ({row.reader} if row.state in {"works", "differs"} else set())
    assert bool(row.reader) == (row.state in {"works", "differs"})


# -- labels and annotations

MARKED: Mapping[tuple[str, str], Sequence[str]] = {
    ("Namespace", "openservicemesh.io/monitored-by"): ["another"],
    ("Namespace", "openservicemesh.io/ignore"): ["true", "false"],
    ("Namespace", "openservicemesh.io/sidecar-injection"): ["enabled"],
    ("Namespace", "openservicemesh.io/metrics"): ["enabled"],
    ("Namespace", "meshlog.io/permissive"): ["true"],
    ("Namespace", "meshlog.io/calls"): ["nowhere"],
    ("Namespace", "meshlog.io/escaped-slashes"): ["keep"],
    ("Namespace", "meshlog.io/trusted-forwarders"): ["buy/buyer"],
    ("Pod", "openservicemesh.io/sidecar-injection"): ["enabled"],
    ("Pod", "openservicemesh.io/outbound-ip-range-exclusion-list"): ["192.0.2.0/24"],
    ("Pod", "openservicemesh.io/outbound-ip-range-inclusion-list"): ["192.0.2.0/24"],
    ("Pod", "openservicemesh.io/outbound-port-exclusion-list"): ["9999"],
    ("Pod", "openservicemesh.io/inbound-port-exclusion-list"): ["9999"],
    ("Pod", "meshlog.io/proxyless"): ["true"],
}


def _marks() -> list[tuple[str, str]]:
    return [(kind, name) for kind, rows in support_matrix.MARKS.items() if kind != "any" for name in rows]


def _new_pod(namespace: Mapping[str, Mapping[str, str]], annotations: Mapping[str, str]) -> str:
    place = InjectedNamespace(name="shop", **namespace)
    found = decide(pods.pod(**annotations), place, mesh_name="meshlog", mesh_namespace="meshlog-system")
    return injected({}, **annotations) if found.inject else "no sidecar"


def _marked_pod(name: str, annotations: Mapping[str, str]) -> Event:
    """A pod of the caller's namespace as its author may write it: the mark of the injector is no author's."""
    meta = projected.Meta(name=name, namespace="buy", uid=f"Pod-buy-{name}", annotations=dict(annotations))
    spec = projected.PodSpec(service_account_name="buyer")
    status = projected.PodStatus(phase="Running", pod_ip="10.244.1.9")
    return objects.event("Pod", "buy", name, projected.Pod(meta, spec, status))


@pytest.mark.parametrize(("kind", "name"), _marks())
def test_a_label_or_annotation_has_the_effect_that_its_row_says(kind: str, name: str) -> None:
    row = support_matrix.MARKS[kind][name]
    seen: set[str] = set()
    for value in MARKED[kind, name]:
        is_label = row.note.startswith("label")
        member = {projected.LABEL_MONITORED_BY: "meshlog"}
        labels = {**member, name: value} if is_label else member
        marked = {} if is_label else {name: value}
        if kind == "Namespace":
            kept = Mesh(objects.bookstore())
            before = kept.take()
            later = [objects.namespace(one, labels=labels, annotations=marked) for one in ("buy", "store")]
            if kept.take(*later) != before:
                seen.add("compiler")
            asks = {projected.ANNOTATION_INJECTION: "enabled"}
            bare = {"labels": member, "annotations": {} if name in asks else asks}
            if _new_pod(bare, {}) != _new_pod({"labels": labels, "annotations": {**bare["annotations"], **marked}}, {}):
                seen.add("injector")
        else:
            kept = Mesh(objects.bookstore())
            if kept.take(_marked_pod("new", {})) != kept.take(_marked_pod("new", marked)):
                seen.add("compiler")
            asks = {} if name == projected.ANNOTATION_INJECTION else {projected.ANNOTATION_INJECTION: "enabled"}
            place = {"labels": member, "annotations": {}}
            if _new_pod(place, asks) != _new_pod(place, {**asks, **marked}):
                seen.add("injector")
    if row.reader == "compiler":
        assert "compiler" in seen
    else:
        assert seen == ({row.reader} if row.reader else set())
    assert bool(row.reader) == (row.state in {"works", "differs"})


def test_every_annotation_and_label_that_a_service_reads_has_a_row() -> None:
    """But the one that the injector sets itself, and that of Kubernetes' own slices."""
    known = {name for rows in support_matrix.MARKS.values() for name in rows}
    read = {
        value
        for name, value in vars(projected).items()
        if name.startswith(("LABEL_", "ANNOTATION_")) and isinstance(value, str)
    }
    assert read - {projected.ANNOTATION_SIDECAR, projected.LABEL_SERVICE_NAME} <= known


# -- what a reader cannot use is known before

NONSENSE: Sequence[Any] = [
    "nonsense",
    "",
    " ",
    "-1",
    "300.1.1.1/8",
    -1,
    0,
    1024,
    70000,
    True,
    1.5,
    [],
    ["nonsense"],
    ["300.1.1.1/8"],
    [70000],
    ["a b"],
    [""],
    [None],
    {},
    {"cpu": "abc"},
    {"nonsense": "1"},
    {"cpu": -1},
    {"secret": 7},
    "openservicemesh/init:v1.2.4",
    "envoyproxy/envoy-alpine:v1.19.1",
    "5 days",
    ["10.0.0.0/8"] * 1001,
]


def _fails(read: Callable[[Json], object], spec: Json) -> bool:
    try:
        read(spec)
    except MeshlogError:
        return True
    return False


@pytest.mark.parametrize(
    "path",
    sorted(path for path in _mesh_config_fields() if support_matrix.MESH_CONFIG[support_matrix.row(path)].reader),
)
def test_what_a_reader_cannot_use_is_a_problem_of_the_object_and_nothing_else_is(mesh: Mesh, path: str) -> None:
    """Whatever is stored without a word can be used by all: admission and statuses are no looser than the readers."""
    for value in NONSENSE:
        spec = _spec(path, value)
        told = {code for code, _ in problems(spec)}
        assert bool(told - {"mesh/image"}) == (_fails(injected, spec) or _fails(issued, spec)), (path, value)
        if not _fails(injected, spec):
            made = json.loads(injected(spec))["spec"]["initContainers"]
            images = {one["image"] for one in made if one["name"] in {"envoy", "meshlog-init"}}
            assert not images & {"openservicemesh/init:v1.2.4", "envoyproxy/envoy-alpine:v1.19.1"}


def test_the_event_of_a_broken_part_is_quarantined_and_the_other_parts_are_in_force() -> None:
    compiler = Compiler(MeshSettings(cluster=objects.CLUSTER))
    spec = {"traffic": {"enableEgress": True}, "certificate": {"certKeyBitSize": 1024}}
    snapshot = Snapshot()
    for number, event in enumerate([*objects.bookstore(), config(spec)], 1):
        compiler.fold(event, number, epoch="e")
    commit = compiler.commit(snapshot)
    assert commit is not None
    snapshot.apply(commit)
    (said,) = snapshot.quarantine
    assert (said.key.kind, said.code) == ("MeshConfig", "config/key-size")
    assert "certificates are issued as before" in said.sentence
    assert any("passthrough" in name for view in snapshot.views.values() for names in view.values() for name in names)


async def test_without_a_mesh_config_every_reader_falls_back_to_its_defaults(mesh: Mesh) -> None:
    spec = {
        "traffic": {"enableEgress": True, "outboundPortExclusionList": [9999]},
        "certificate": {"serviceCertValidityDuration": "3h"},
    }
    without = mesh.take(config(None))
    assert mesh.take(config(spec)) != without
    assert mesh.take(config(None)) == without
    facts = ClusterState(TokenVerifier(), cluster=CLUSTER.name, mesh_name="meshlog", mesh_namespace="meshlog-system")
    facts.apply(CLUSTER.config_event(spec))
    assert facts.lifetime == 3 * 3600
    facts.apply(CLUSTER.gone("MeshConfig", "meshlog-system", "osm-mesh-config"))
    assert facts.lifetime is None
    log = MemoryLog()
    known = NamespaceFold(mesh_namespace="meshlog-system")
    for sequence, event in enumerate(
        [CLUSTER.config_event(spec), CLUSTER.gone("MeshConfig", "meshlog-system", "osm-mesh-config")], 1
    ):
        await write(log, [event])
        found = [record async for record in log.read()][-1]
        known.fold(found)
        assert (known.mesh == MeshSpec()) == (sequence == 2)
