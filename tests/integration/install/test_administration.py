"""The verbs of an administrator against an API server: membership, checks, inventory; and who they are to it."""

from __future__ import annotations

import base64
import stat
from collections.abc import AsyncGenerator
from pathlib import Path
from typing import Any, cast

import pytest
import yaml

from cli.calls.matching import HttpRequest
from cli.cluster import connectivity, installation, namespace_membership
from cli.health import cluster_facts
from cli.health.checks import judged
from cli.health.facts import HealthFacts
from cli.health.finding import CheckResult
from cli.kubernetes import kubeconfig
from cli.kubernetes.api_client import Api, connect
from cli.migrate import inventory
from deploy.devcluster.apiserver import ApiServer
from deploy.install.control_plane import control_plane
from deploy.install.profile import PRESETS
from shared.errors import BadInputError


@pytest.fixture
async def server() -> AsyncGenerator[ApiServer]:
    api = ApiServer(addresses=[("127.0.0.1", 0)])
    await api.start()
    yield api
    await api.stop()


@pytest.fixture
async def config(server: ApiServer, tmp_path: Path) -> Path:
    path = tmp_path / "kubeconfig"
    path.write_text(server.kubeconfig(f"https://127.0.0.1:{server.bound[0][1]}"))
    return path


@pytest.fixture
async def api(config: Path) -> AsyncGenerator[Api]:
    async with connect(kubeconfig.read(config)) as session:
        for crd in installation.definitions():
            await session.apply(crd)
        for name in ("shop", "home"):
            await session.apply({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name}})
        yield session


async def metadata(api: Api, name: str) -> dict[str, Any]:
    return (await api.get(f"/api/v1/namespaces/{name}"))["metadata"]


async def test_a_namespace_joins_and_leaves_without_a_trace(api: Api) -> None:
    before = await metadata(api, "shop")
    await namespace_membership.add(api, "shop", "meshlog", injection=True)
    joined = await metadata(api, "shop")
    assert joined["labels"]["openservicemesh.io/monitored-by"] == "meshlog"
    assert joined["annotations"]["openservicemesh.io/sidecar-injection"] == "enabled"
    assert [one["namespace"] for one in await namespace_membership.members(api, "meshlog")] == ["shop"]
    await namespace_membership.remove(api, "shop", "meshlog")
    after = await metadata(api, "shop")
    assert (after["labels"], after.get("annotations") or {}) == (before["labels"], {})


async def test_an_ignored_or_foreign_namespace_does_not_join(api: Api) -> None:
    await namespace_membership.ignore(api, "shop")
    with pytest.raises(BadInputError, match="carries the label"):
        await namespace_membership.add(api, "shop", "meshlog", injection=True)
    await namespace_membership.add(api, "home", "other", injection=False)
    with pytest.raises(BadInputError, match="member of 'other'"):
        await namespace_membership.add(api, "home", "meshlog", injection=True)
    with pytest.raises(BadInputError, match="no member of 'meshlog'"):
        await namespace_membership.remove(api, "home", "meshlog")
    with pytest.raises(BadInputError, match="no namespace of this cluster"):
        await namespace_membership.add(api, "nowhere", "meshlog", injection=True)


async def health(api: Api) -> dict[str, CheckResult]:
    facts = HealthFacts(cluster=await cluster_facts.read(api, "meshlog-system", "meshlog"))
    return {one.check: one for one in judged(facts)}


async def test_health_names_what_is_missing_and_what_waits(api: Api) -> None:
    for one in control_plane(PRESETS["minimal"]):
        if one["kind"] != "Deployment" or one["metadata"]["name"] != "meshlog-ca":
            await api.apply(one)
    results = await health(api)
    assert {name for name, one in results.items() if one.state == "well"} == {"api", "sidecars", "probe-ports"}
    lacking = {one.about: one.sentence for one in results["replicas"].findings}
    assert "not installed" in lacking["meshlog-ca"]
    assert "0 of 1 ready" in lacking["meshlog-compiler"]
    assert "has no CA yet" in results["webhook"].findings[0].sentence
    assert "is not there: the defaults are in force" in results["mesh-config"].findings[0].sentence
    config = installation.mesh_config(PRESETS["minimal"], permissive=False)
    await api.apply(config)
    assert (await health(api))["mesh-config"].state == "well"
    await api.apply({**config, "spec": {"certificate": {"certKeyBitSize": 1}}})
    assert "must be one of 2048" in (await health(api))["mesh-config"].findings[0].sentence
    assert results["log"].state == results["leader"].state == "unknown", "nobody said where the log is"


def pod(namespace: str, name: str, *, sidecar: bool) -> dict[str, Any]:
    container = {"name": "main", "image": "x"}
    init = [{"name": "envoy", "image": "e", "restartPolicy": "Always"}] if sidecar else []
    made = {"name": name, "namespace": namespace, "labels": {"app": name}}
    spec = {"containers": [container], "initContainers": init, "serviceAccountName": "default"}
    return {"apiVersion": "v1", "kind": "Pod", "metadata": made, "spec": spec}


def placed(namespace: str, name: str, address: str, *, sidecar: bool) -> list[dict[str, Any]]:
    """A pod that runs, with the annotation of the injector if it has a sidecar; what the API keeps in two parts."""
    one = pod(namespace, name, sidecar=sidecar)
    if sidecar:
        one["metadata"]["annotations"] = {"meshlog.io/sidecar": "test"}
    conditions = [{"type": "Ready", "status": "True"}]
    status = {"phase": "Running", "podIP": address, "podIPs": [{"ip": address}], "conditions": conditions}
    return [one, {"status": status}]


async def put(api: Api, namespace: str, name: str, address: str, *, sidecar: bool) -> None:
    one, status = placed(namespace, name, address, sidecar=sidecar)
    await api.apply(one)
    path = f"/api/v1/namespaces/{namespace}/pods/{name}/status"
    answered, _ = await api.request("PATCH", path, body=status, content_type="application/merge-patch+json")
    assert answered == 200


SHOP = {
    "service": {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": {"name": "web", "namespace": "shop"},
        "spec": {"selector": {"app": "web"}, "ports": [{"name": "http", "port": 80}], "clusterIP": "10.96.0.7"},
    },
    "slice": {
        "apiVersion": "discovery.k8s.io/v1",
        "kind": "EndpointSlice",
        "metadata": {"name": "web-1", "namespace": "shop", "labels": {"kubernetes.io/service-name": "web"}},
        "addressType": "IPv4",
        "endpoints": [
            {
                "addresses": ["10.244.0.9"],
                "conditions": {"ready": True},
                "targetRef": {"kind": "Pod", "name": "web", "namespace": "shop"},
            }
        ],
        "ports": [{"name": "http", "port": 80, "protocol": "TCP"}],
    },
    "routes": {
        "apiVersion": "specs.smi-spec.io/v1alpha4",
        "kind": "HTTPRouteGroup",
        "metadata": {"name": "routes", "namespace": "shop"},
        "spec": {"matches": [{"name": "read", "pathRegex": "/.*", "methods": ["GET"]}]},
    },
    "target": {
        "apiVersion": "access.smi-spec.io/v1alpha3",
        "kind": "TrafficTarget",
        "metadata": {"name": "web", "namespace": "shop"},
        "spec": {
            "destination": {"kind": "ServiceAccount", "name": "default", "namespace": "shop"},
            "sources": [{"kind": "ServiceAccount", "name": "default", "namespace": "home"}],
            "rules": [{"kind": "HTTPRouteGroup", "name": "routes"}],
        },
    },
}


async def failed(api: Api, **wanted: Any) -> list[str]:
    call = connectivity.ConnectivityQuery("home/buyer", "shop/web")._replace(**wanted)
    names = {"mesh_name": "meshlog", "mesh_namespace": "meshlog-system"}
    checks = await connectivity.verify(api, call, **names, log=None)
    return [f"{one.what}: {one.found}" for one in checks if not one.fine]


async def test_connectivity_is_followed_step_by_step(api: Api) -> None:
    assert (await failed(api))[0].startswith("namespace home: is no member")
    assert (await failed(api))[1] == "pod home/buyer: is not there"
    for name in ("home", "shop"):
        await namespace_membership.add(api, name, "meshlog", injection=True)
    await put(api, "home", "buyer", "10.244.0.8", sidecar=False)
    await put(api, "shop", "web", "10.244.0.9", sidecar=True)
    first, second = await failed(api)
    assert "has no sidecar" in first
    assert "no Service leads to shop/web" in second
    await api.delete(pod("home", "buyer", sidecar=False))
    await put(api, "home", "buyer", "10.244.0.8", sidecar=True)
    for part in ("service", "slice"):
        await api.apply(SHOP[part])
    (denied,) = await failed(api)
    assert "no TrafficTarget in shop has shop/default as its destination" in denied
    await api.apply(SHOP["target"])
    (denied,) = await failed(api)
    assert "names HTTPRouteGroup shop/routes, which is not there" in denied, "a target whose rules are gone"
    await api.apply(SHOP["routes"])
    assert not await failed(api)
    (denied,) = await failed(api, request=HttpRequest(method="DELETE"))
    assert "allows only GET, not DELETE" in denied


async def test_connectivity_by_service_port_protocol_and_host(api: Api) -> None:
    for name in ("home", "shop"):
        await namespace_membership.add(api, name, "meshlog", injection=True)
    await put(api, "home", "buyer", "10.244.0.8", sidecar=True)
    await put(api, "shop", "web", "10.244.0.9", sidecar=True)
    for part in SHOP.values():
        await api.apply(part)
    assert not await failed(api, pod="", service="shop/web")
    assert not await failed(api, service="web", protocol="http", port=80)
    assert "there is no Service shop/cart" in (await failed(api, service="cart"))[0]
    assert "choose a port" in (await failed(api, service="web", port=81))[0]
    assert "is taken for HTTP, not tcp" in (await failed(api, service="web", protocol="tcp"))[0]
    (denied,) = await failed(api, pod="", host="example.com", port=443)
    assert "the caller sees closed" in denied
    config = {
        "apiVersion": "config.openservicemesh.io/v1alpha2",
        "kind": "MeshConfig",
        "metadata": {"name": "osm-mesh-config", "namespace": "meshlog-system"},
        "spec": {"traffic": {"enableEgress": True}},
    }
    await api.apply({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "meshlog-system"}})
    await api.apply(config)
    assert not await failed(api, pod="", host="example.com", port=443)


async def test_a_permissive_namespace_is_called_without_a_target(api: Api) -> None:
    for name in ("home", "shop"):
        await namespace_membership.add(api, name, "meshlog", injection=True)
    await put(api, "home", "buyer", "10.244.0.8", sidecar=True)
    await put(api, "shop", "web", "10.244.0.9", sidecar=True)
    for part in ("service", "slice"):
        await api.apply(SHOP[part])
    assert await failed(api)
    annotated = {"annotations": {"meshlog.io/permissive": "true"}}
    status, _ = await api.request(
        "PATCH", "/api/v1/namespaces/shop", body={"metadata": annotated}, content_type="application/merge-patch+json"
    )
    assert status == 200
    assert not await failed(api)


@pytest.mark.parametrize(
    ("told", "native"),
    [
        ({"major": "1", "minor": "28+"}, False),
        ({"major": "1", "minor": "29"}, True),
        ({"major": "1", "minor": "33+"}, True),
        ({"major": "2", "minor": "0"}, True),
        ({"gitVersion": "v0.0.0-master"}, True),
    ],
)
async def test_an_old_cluster_is_given_ordinary_sidecars(told: dict[str, str], native: bool) -> None:  # noqa: FBT001
    class Server:
        async def get(self, path: str) -> dict[str, str]:
            assert path == "/version"
            return told

    made = await installation.suited(cast("Api", Server()), PRESETS["ha"])
    assert made.native_sidecars is native


async def test_66_pods_that_run_without_a_sidecar_are_named(api: Api) -> None:
    async def told() -> list[str]:
        return [one.sentence for one in (await health(api))["sidecars"].findings]

    await namespace_membership.add(api, "shop", "meshlog", injection=True)
    assert not await told()
    await api.apply(pod("shop", "with", sidecar=True))
    out = pod("shop", "out", sidecar=False)
    out["metadata"]["annotations"] = {"openservicemesh.io/sidecar-injection": "disabled"}
    await api.apply(out)
    await api.apply(pod("home", "outside", sidecar=False))
    assert not await told()
    await api.apply(pod("shop", "bare", sidecar=False))
    assert await told() == ["shop/bare run without a sidecar: created before"]


async def test_the_inventory_finds_objects_of_every_version_and_says_what_they_are(api: Api) -> None:
    named = {"name": "s", "namespace": "shop"}
    spec = {"service": "web", "backends": [{"service": "v1", "weight": 1}]}
    await api.apply(
        {"apiVersion": "split.smi-spec.io/v1alpha1", "kind": "TrafficSplit", "metadata": named, "spec": spec}
    )
    found = [one for one in await inventory.read(api) if one["kind"] in {"TrafficSplit", "Namespace"}]
    assert {(one["kind"], one["metadata"]["name"]) for one in found} >= {("TrafficSplit", "s"), ("Namespace", "shop")}


async def test_a_cluster_without_any_of_our_kinds_has_an_inventory(config: Path) -> None:
    async with connect(kubeconfig.read(config)) as session:
        assert {one["kind"] for one in await inventory.read(session)} == {"Namespace"}


def with_plugin(config: Path, token: str) -> None:
    """Let the kubeconfig name a program that says the token, and the CA by a file beside it."""
    plugin = config.parent / "login"
    answer = f'{{"status": {{"token": "{token}"}}}}'
    plugin.write_text(f'#!/bin/sh\ntest "$WHO" = me && test -n "$KUBERNETES_EXEC_INFO" && echo \'{answer}\'\n')
    plugin.chmod(plugin.stat().st_mode | stat.S_IXUSR)
    written = yaml.safe_load(config.read_text())
    variables = [{"name": "WHO", "value": "me"}]
    user = {"apiVersion": "client.authentication.k8s.io/v1", "command": "./login", "env": variables}
    written["users"][0]["user"] = {"exec": user}
    cluster = written["clusters"][0]["cluster"]
    (config.parent / "ca.crt").write_bytes(base64.b64decode(cluster.pop("certificate-authority-data")))
    cluster["certificate-authority"] = "ca.crt"
    config.write_text(yaml.safe_dump(written))


async def test_a_credential_plugin_says_who_we_are(server: ApiServer, config: Path) -> None:
    with_plugin(config, server.accounts.admin_token)
    async with connect(kubeconfig.read(config)) as session:
        assert (await session.get("/api/v1/namespaces"))["items"]


def test_a_kubeconfig_that_cannot_be_used_is_a_sentence(tmp_path: Path) -> None:
    (tmp_path / "broken").write_text("{}")
    for name, sentence in (("missing", "cannot be read"), ("broken", "cannot be used as a kubeconfig")):
        with pytest.raises(BadInputError, match=sentence):
            kubeconfig.read(tmp_path / name)
