"""Each Service has ClusterIPs of its own, whichever way it asks for them."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import pytest

from deploy.devcluster.apiserver import ApiServer
from deploy.devcluster.cluster_api import KubeApiError, Obj
from deploy.devcluster.controllers.service_addresses import ServiceAddressController
from deploy.devcluster.object_cache import ObjectCache
from tests.unit.devcluster_api.kinds.test_builtin_rules import named, service
from tests.waiting import eventually

ADDRESS = "10.96.0.7"
ALLOCATED = f"failed to allocate IP {ADDRESS}: provided IP is already allocated"


@pytest.fixture
async def api() -> AsyncIterator[ApiServer]:
    server = ApiServer(service_network="10.96.0.0/16", reserved_addresses=["10.96.0.10"])
    await server.start()
    for name in ("red", "blue"):
        await server.cluster.create("namespaces", {"metadata": {"name": name}})
    await server.cluster.create("services", placed("blue", "owner", clusterIP=ADDRESS))
    yield server
    await server.stop()


def placed(namespace: str, name: str, **spec: object) -> Obj:
    return named(service(**spec), namespace=namespace, name=name)


def refused(error: KubeApiError, sentence: str) -> None:
    assert (error.status, error.reason) == (422, "Invalid")
    assert sentence in error.sentence


@pytest.mark.parametrize("namespace", ["red", "blue"])
async def test_an_address_that_another_service_has_is_refused(api: ApiServer, namespace: str) -> None:
    with pytest.raises(KubeApiError) as error:
        await api.cluster.create("services", placed(namespace, "second", clusterIP=ADDRESS))
    refused(error.value, ALLOCATED)
    assert await api.cluster.get("services", namespace, "second") is None


async def test_a_service_that_has_none_cannot_be_given_anothers_later(api: ApiServer) -> None:
    """By a patch, an update or an apply, also with an address that was an ExternalName's before."""
    await api.cluster.create("services", placed("red", "s"))
    await api.cluster.create("services", placed("red", "e", type="ExternalName", externalName="web.example.com"))
    for attempt in (
        api.cluster.patch("services", "red", "s", {"spec": {"clusterIP": ADDRESS}}),
        api.cluster.patch("services", "red", "e", {"spec": {"type": "ClusterIP", "clusterIP": ADDRESS}}),
        api.cluster.update("services", placed("red", "s", clusterIP=ADDRESS)),
        api.cluster.transact([placed("red", "s", clusterIP=ADDRESS)]),
    ):
        with pytest.raises(KubeApiError) as error:
            await attempt
        refused(error.value, ALLOCATED)


async def test_a_second_address_is_an_address_too(api: ApiServer) -> None:
    own = "10.96.0.8"
    with pytest.raises(KubeApiError) as error:
        await api.cluster.create("services", placed("red", "s", clusterIP=own, clusterIPs=[own, ADDRESS]))
    refused(error.value, ALLOCATED)


async def test_two_of_one_transaction_cannot_share_an_address(api: ApiServer) -> None:
    both = [placed("red", name, clusterIP="10.96.0.9") for name in ("one", "two")]
    with pytest.raises(KubeApiError) as error:
        await api.cluster.transact(both)
    refused(error.value, "failed to allocate IP 10.96.0.9: provided IP is already allocated")
    assert await api.cluster.get("services", "red", "one") is None


async def test_nobody_has_the_address_of_the_clusters_dns(api: ApiServer) -> None:
    with pytest.raises(KubeApiError) as error:
        await api.cluster.create("services", placed("red", "dns", clusterIP="10.96.0.10"))
    refused(error.value, "provided IP is already allocated")


@pytest.mark.parametrize(
    ("address", "sentence"),
    [
        ("10.244.0.25", "The range of valid IPs is 10.96.0.0/16"),
        ("169.254.169.254", "The range of valid IPs is 10.96.0.0/16"),
        ("fd00::1", "The range of valid IPs is 10.96.0.0/16"),
        ("10.96.0.07", "must be a valid IP address"),
        ("FD00::1", "must be a valid IP address"),
        ("web.example.com", "must be a valid IP address"),
    ],
)
async def test_addresses_are_of_the_service_network(api: ApiServer, address: str, sentence: str) -> None:
    with pytest.raises(KubeApiError) as error:
        await api.cluster.create("services", placed("red", "s", clusterIP=address))
    refused(error.value, sentence)


@pytest.mark.parametrize(
    ("spec", "sentence"),
    [
        ({"clusterIP": "10.96.0.8", "clusterIPs": ["10.96.0.9"]}, "must be the same as spec.clusterIP"),
        ({"clusterIP": "10.96.0.8", "clusterIPs": ["10.96.0.8", "None"]}, "must be a valid IP address"),
        (
            {"clusterIP": "10.96.0.8", "clusterIPs": ["10.96.0.8", "10.96.0.9", "10.96.0.11"]},
            "may only hold up to 2 values",
        ),
    ],
)
async def test_the_list_of_addresses_agrees_with_the_first(api: ApiServer, spec: Obj, sentence: str) -> None:
    with pytest.raises(KubeApiError) as error:
        await api.cluster.create("services", placed("red", "s", **spec))
    refused(error.value, sentence)


async def test_an_address_is_free_again_when_its_service_is_gone(api: ApiServer) -> None:
    await api.cluster.patch("services", "blue", "owner", {"spec": {"ports": [{"port": 81}]}})  # its own it keeps
    await api.cluster.delete("services", "blue", "owner")
    made = await api.cluster.create("services", placed("red", "s", clusterIP=ADDRESS))
    assert made["spec"]["clusterIPs"] == [ADDRESS]


async def test_an_address_asked_for_while_it_is_handed_out_is_not_given_twice(api: ApiServer) -> None:
    """The controller does not know yet what the API server took a moment ago."""
    cache = ObjectCache(api.cluster, ("services",))
    following = asyncio.create_task(cache.run())
    await eventually(lambda: cache.get("services", "blue", "owner"), within=5, what="the cache follows")
    following.cancel()
    addresses = ServiceAddressController(api.cluster, cache, network="10.96.0.0/16")
    await api.cluster.create("services", placed("red", "quick", clusterIP="10.96.1.0"))
    await api.cluster.create("services", placed("red", "s"))
    assert await addresses.reconcile(("red", "s")) == 0.0
    assert await addresses.reconcile(("red", "s")) is None
    found = await api.cluster.get("services", "red", "s")
    assert found is not None
    assert found["spec"]["clusterIP"] == "10.96.1.1"
