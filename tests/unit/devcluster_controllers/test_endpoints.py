"""Who answers for a Service: slices, routes and names."""

from __future__ import annotations

from typing import Any

import pytest

from deploy.devcluster import object_fields
from deploy.devcluster.cluster_api import Obj
from deploy.devcluster.controllers.endpointslices import slices_of
from deploy.devcluster.controllers.service_addresses import ServiceAddressPool
from deploy.devcluster.controllers.service_proxy import names_of, routes_of
from tests.unit.devcluster_controllers.scene import deployment, scene, service
from tests.waiting import eventually

WITHIN = 5.0


def pod(name: str, address: str, *, ready: bool = True, leaving: bool = False, **spec: Any) -> Obj:
    metadata: Obj = {"name": name, "namespace": "default", "uid": f"uid-{name}", "labels": {"app": "web"}}
    if leaving:
        metadata["deletionTimestamp"] = "2026-01-01T00:00:00Z"
    return {
        "metadata": metadata,
        "spec": {"containers": [], "nodeName": "devcluster"} | spec,
        "status": {
            "phase": "Running",
            "podIP": address,
            "conditions": object_fields.with_condition([], "Ready", "True" if ready else "False", now=0),
        },
    }


def made(**spec: Any) -> Obj:
    made = service(**spec)
    made["metadata"]["uid"] = "uid-web"
    return made


def conditions(slices: list[Obj]) -> dict[str, Obj]:
    return {endpoint["targetRef"]["name"]: endpoint["conditions"] for each in slices for endpoint in each["endpoints"]}


def test_a_slice_tells_ready_serving_and_terminating_apart() -> None:
    pods = [pod("a", "10.0.0.1"), pod("b", "10.0.0.2", ready=False), pod("c", "10.0.0.3", leaving=True)]
    assert conditions(slices_of(made(), pods)) == {
        "a": {"ready": True, "serving": True, "terminating": False},
        "b": {"ready": False, "serving": False, "terminating": False},
        "c": {"ready": False, "serving": True, "terminating": True},
    }


def test_a_service_that_publishes_unready_addresses_has_only_ready_endpoints() -> None:
    slices = slices_of(made(publishNotReadyAddresses=True), [pod("b", "10.0.0.2", ready=False)])
    assert conditions(slices)["b"]["ready"]


def test_finished_pods_and_pods_without_an_address_are_no_endpoints() -> None:
    finished, homeless = pod("a", "10.0.0.1"), pod("b", "10.0.0.2")
    finished["status"]["phase"] = "Succeeded"
    del homeless["status"]["podIP"]
    (only,) = slices_of(made(), [finished, homeless])
    assert only["endpoints"] == []


def test_named_ports_are_resolved_for_each_pod() -> None:
    """Pods that disagree about the number share no slice; a sidecar's ports count."""
    old = [{"name": "main", "ports": [{"name": "http", "containerPort": 8080}]}]
    new = [{"name": "proxy", "restartPolicy": "Always", "ports": [{"name": "http", "containerPort": 9090}]}]
    pods = [pod("a", "10.0.0.1", containers=old), pod("b", "10.0.0.2", initContainers=new)]
    slices = slices_of(made(ports=[{"name": "web", "port": 80, "targetPort": "http"}]), pods)
    assert {each["ports"][0]["port"] for each in slices} == {8080, 9090}
    assert len({object_fields.name(each) for each in slices}) == 2


def test_the_name_of_a_slice_outlives_its_pods() -> None:
    (empty,) = slices_of(made(), [])
    (full,) = slices_of(made(), [pod("a", "10.0.0.1")])
    assert object_fields.name(empty) == object_fields.name(full)
    assert object_fields.name(full).startswith("web-")


def test_pods_of_a_subdomain_have_names_under_a_headless_service() -> None:
    headless = made(clusterIP="None")
    slices = slices_of(headless, [pod("a", "10.0.0.1", hostname="a", subdomain="web"), pod("b", "10.0.0.2")])
    assert names_of([headless], slices, "cluster.local") == {
        "web.default.svc.cluster.local": ("10.0.0.1", "10.0.0.2"),
        "a.web.default.svc.cluster.local": ("10.0.0.1",),
    }


def test_routes_lead_to_ready_endpoints_and_only_without_any_to_leaving_ones() -> None:
    addressed = made(clusterIP="10.96.1.1")
    pods = [pod("a", "10.0.0.1"), pod("b", "10.0.0.2", leaving=True), pod("c", "10.0.0.3", ready=False)]
    (route,) = routes_of([addressed], slices_of(addressed, pods))
    assert (route.cluster_ip, route.port, route.backends) == ("10.96.1.1", 80, (("10.0.0.1", 8080),))
    (route,) = routes_of([addressed], slices_of(addressed, pods[1:]))
    assert route.backends == (("10.0.0.2", 8080),)
    (route,) = routes_of([addressed], slices_of(addressed, pods[2:]))
    assert route.backends == ()


def test_an_address_given_back_is_not_soon_given_out_again() -> None:
    pool = ServiceAddressPool("10.96.0.0/22")
    first = pool.take(())
    assert first == "10.96.1.0"
    assert pool.take(()) != first
    with pytest.raises(LookupError):
        ServiceAddressPool("10.96.0.0/23").take(f"10.96.1.{last}" for last in range(256))


async def test_readiness_reaches_slices_routes_and_names() -> None:
    async with scene() as stage:
        await stage.cluster.create("services", service())
        await stage.cluster.create("services", service("fixed", clusterIP="10.96.0.77"))
        await stage.cluster.create("deployments.apps", deployment(replicas=2))
        await eventually(lambda: _count(stage.pods()), within=WITHIN, what="two pods")
        await stage.make_all_ready()

        def routed() -> bool:
            return any(len(route.backends) == 2 for route in stage.network.routes)

        await eventually(routed, within=WITHIN, what="both pods are backends")
        found = await stage.cluster.get("services", "default", "web")
        assert found is not None
        assert stage.network.names["web.default.svc.cluster.local"] == (found["spec"]["clusterIP"],)
        assert stage.network.names["fixed.default.svc.cluster.local"] == ("10.96.0.77",)
        await stage.make_ready((await stage.pods())[0], ready=False)
        await eventually(
            lambda: any(len(route.backends) == 1 for route in stage.network.routes), within=WITHIN, what="one is left"
        )
        await stage.cluster.delete("services", "default", "web")
        slices = "endpointslices.discovery.k8s.io"

        async def gone() -> bool:
            left, _ = await stage.cluster.list(slices, "default", labels={"kubernetes.io/service-name": "web"})
            return not left and len(stage.network.routes) == 1

        await eventually(gone, within=WITHIN, what="the slice and the route are gone")


async def _count(pods: Any) -> bool:
    return len(await pods) == 2


async def test_every_namespace_has_its_account_and_its_ca() -> None:
    async with scene() as stage:
        await stage.cluster.create("namespaces", {"metadata": {"name": "other"}})

        async def there() -> bool:
            account = await stage.cluster.get("serviceaccounts", "other", "default")
            config = await stage.cluster.get("configmaps", "other", "kube-root-ca.crt")
            return account is not None and config is not None and config["data"] == {"ca.crt": "the CA"}

        await eventually(there, within=WITHIN, what="account and CA are there")
        await stage.cluster.delete("serviceaccounts", "other", "default")
        await stage.cluster.patch("configmaps", "other", "kube-root-ca.crt", {"data": {"ca.crt": "mine"}})
        await eventually(there, within=WITHIN, what="they are made good again")
