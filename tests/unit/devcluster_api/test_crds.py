"""Our CustomResourceDefinitions take what people have written, and refuse what nobody can mean."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from deploy.devcluster.apiserver import ApiServer
from deploy.devcluster.cluster_api import KubeApiError, Obj

CRDS = Path(__file__).parents[3] / "deploy" / "crds"
GROUPS = {
    "TrafficTarget": ("traffictargets", "access.smi-spec.io"),
    "IdentityBinding": ("identitybindings", "access.smi-spec.io"),
    "HTTPRouteGroup": ("httproutegroups", "specs.smi-spec.io"),
    "TCPRoute": ("tcproutes", "specs.smi-spec.io"),
    "UDPRoute": ("udproutes", "specs.smi-spec.io"),
    "TrafficSplit": ("trafficsplits", "split.smi-spec.io"),
    "MeshConfig": ("meshconfigs", "config.openservicemesh.io"),
}
ALPHAS = ("v1alpha1", "v1alpha2", "v1alpha3", "v1alpha4")


def definitions() -> Iterator[Obj]:
    for path in sorted(CRDS.glob("*.yaml")):
        yield from yaml.safe_load_all(path.read_text())


@pytest.fixture
async def mesh(api: ApiServer) -> ApiServer:
    for crd in definitions():
        await api.cluster.create("customresourcedefinitions.apiextensions.k8s.io", crd)
    return api


async def create(api: ApiServer, kind: str, version: str, **fields: Any) -> Obj:
    plural, group = GROUPS[kind]
    obj = {"apiVersion": f"{group}/{version}", "kind": kind, "metadata": {"name": "x", "namespace": "default"}}
    return await api.cluster.create(f"{plural}.{group}", {**obj, **fields})


def test_every_kind_has_its_definition() -> None:
    found = {crd["spec"]["names"]["kind"]: crd["spec"] for crd in definitions()}
    assert set(GROUPS) <= set(found)
    for kind in ("TrafficTarget", "HTTPRouteGroup", "TCPRoute", "UDPRoute", "TrafficSplit"):
        assert {one["name"] for one in found[kind]["versions"] if one["served"]} == set(ALPHAS)
    shorts = {name: kind for kind, spec in found.items() for name in spec["names"].get("shortNames", [])}
    assert {"tt", "htr", "tr", "ur", "ts"} <= set(shorts)


SOURCE = {"kind": "ServiceAccount", "name": "buyer", "namespace": "default"}
DESTINATION = {"kind": "ServiceAccount", "name": "store", "namespace": "default"}
RULE = {"kind": "HTTPRouteGroup", "name": "routes", "matches": ["buy"]}
SPEC = {"destination": DESTINATION, "rules": [RULE], "sources": [SOURCE]}
BACKENDS = [{"service": "a", "weight": 10}, {"service": "b", "weight": 90}]


@pytest.mark.parametrize(
    ("kind", "version", "fields"),
    [
        ("TrafficTarget", "v1alpha4", {"spec": SPEC}),
        ("TrafficTarget", "v1alpha3", {"spec": SPEC}),
        ("TrafficTarget", "v1alpha2", {"spec": {**SPEC, "destination": {**DESTINATION, "port": "8080"}}}),
        ("TrafficTarget", "v1alpha2", {"spec": {**SPEC, "destination": {**DESTINATION, "port": 8080}}}),
        ("TrafficTarget", "v1alpha1", {"destination": DESTINATION, "specs": [RULE], "sources": [SOURCE]}),
        ("HTTPRouteGroup", "v1alpha1", {"matches": [{"name": "m", "pathRegex": "/x", "methods": ["GET"]}]}),
        ("HTTPRouteGroup", "v1alpha4", {"spec": {"matches": [{"name": "m", "headers": {"a": "b"}}]}}),
        ("HTTPRouteGroup", "v1alpha4", {"spec": {"matches": [{"name": "m", "headers": [{"a": "b"}]}]}}),
        ("TCPRoute", "v1alpha1", {}),
        ("TCPRoute", "v1alpha3", {"spec": {}}),
        ("TCPRoute", "v1alpha4", {"spec": {"matches": {"ports": [3306, "3307"]}}}),
        ("UDPRoute", "v1alpha4", {"spec": {"matches": {"ports": [53]}}}),
        ("TrafficSplit", "v1alpha1", {"spec": {"service": "r", "backends": [{"service": "a", "weight": "500m"}]}}),
        ("TrafficSplit", "v1alpha2", {"spec": {"service": "r", "backends": BACKENDS}}),
        (
            "TrafficSplit",
            "v1alpha4",
            {"spec": {"service": "r", "backends": BACKENDS, "matches": [{"kind": "HTTPRouteGroup", "name": "x"}]}},
        ),
        ("IdentityBinding", "v1alpha4", {"spec": {"schemes": {"spiffeIdentities": ["a/b"], "serviceAccount": "s"}}}),
        ("MeshConfig", "v1alpha1", {"spec": {"sidecar": {"resources": {"limits": {"cpu": 1, "memory": "1G"}}}}}),
    ],
)
async def test_what_people_wrote_is_taken_whole(
    mesh: ApiServer, kind: str, version: str, fields: dict[str, Any]
) -> None:
    """Taken, and nothing of it is pruned."""
    made = await create(mesh, kind, version, **fields)
    for key, value in fields.items():
        if kind == "MeshConfig":
            assert made["spec"]["sidecar"]["resources"] == value["sidecar"]["resources"]
        else:
            assert made[key] == value


@pytest.mark.parametrize(
    ("kind", "fields", "sentence"),
    [
        ("TrafficTarget", {}, "needs spec, or destination, specs and sources"),
        ("TrafficTarget", {"destination": DESTINATION}, "needs spec, or destination, specs and sources"),
        ("HTTPRouteGroup", {}, "needs spec, or matches"),
        ("TrafficTarget", {"spec": {"rules": [RULE], "sources": [SOURCE]}}, "spec.destination: Required value"),
        ("TrafficTarget", {"spec": {**SPEC, "rules": "x"}}, "spec.rules in body must be of type array"),
        ("TrafficTarget", {"spec": {**SPEC, "rules": [{"kind": "X", "name": "y"}]}}, 'Unsupported value: "X"'),
        ("HTTPRouteGroup", {"spec": {"matches": [{"pathRegex": "x"}]}}, "spec.matches[0].name: Required value"),
        ("HTTPRouteGroup", {"spec": {"matches": [{"name": "m", "methods": ["get"]}]}}, 'Unsupported value: "get"'),
        ("TrafficSplit", {"spec": {"service": "r"}}, "spec.backends: Required value"),
        (
            "TrafficSplit",
            {"spec": {"service": "r", "backends": [{"service": "a", "weight": 0.5}]}},
            "spec.backends[0].weight in body must be of type integer,string",
        ),
    ],
)
async def test_what_nobody_can_mean_is_refused(
    mesh: ApiServer, kind: str, fields: dict[str, Any], sentence: str
) -> None:
    with pytest.raises(KubeApiError) as refusal:
        await create(mesh, kind, "v1alpha4", **fields)
    assert (refusal.value.status, refusal.value.reason) == (422, "Invalid")
    assert sentence in refusal.value.sentence


async def test_a_mesh_config_is_completed(mesh: ApiServer) -> None:
    made = await create(mesh, "MeshConfig", "v1alpha2", spec={"sidecar": {}})
    assert made["spec"]["sidecar"] == {
        "tlsMinProtocolVersion": "TLSv1_2",
        "tlsMaxProtocolVersion": "TLSv1_3",
        "localProxyMode": "Localhost",
    }


async def test_an_old_object_can_be_read_and_given_a_status_in_the_newest_version(mesh: ApiServer) -> None:
    await create(mesh, "TrafficTarget", "v1alpha1", destination=DESTINATION, specs=[RULE], sources=[SOURCE])
    made = await mesh.cluster.patch(
        "traffictargets.access.smi-spec.io", "default", "x", {"status": {"state": "applied"}}, subresource="status"
    )
    assert made["apiVersion"] == "access.smi-spec.io/v1alpha4"
    assert made["specs"] == [RULE]
    assert made["status"] == {"state": "applied"}
