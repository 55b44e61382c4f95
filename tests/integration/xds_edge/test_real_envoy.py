"""A real Envoy behind a real edge: it is configured, it acknowledges, it survives, and it refuses."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from envoy.config.cluster.v3.cluster_pb2 import Cluster
from envoy.config.endpoint.v3.endpoint_pb2 import ClusterLoadAssignment
from envoy.config.listener.v3.listener_pb2 import Listener
from envoy.config.route.v3.route_pb2 import RouteConfiguration
from envoy.extensions.filters.http.router.v3 import router_pb2
from envoy.extensions.filters.network.http_connection_manager.v3 import http_connection_manager_pb2
from envoy.extensions.transport_sockets.tls.v3 import tls_pb2
from google.protobuf import json_format

from services.xds_edge.app import App
from shared.records.snapshot import CDS, EDS, LDS, RDS, SDS
from tests.integration.xds_edge.real_envoy import RealEnvoy, running
from tests.integration.xds_edge.world import World, world
from tests.waiting import eventually

pytestmark = pytest.mark.envoy

POD = "shop/web-1"
TYPES_IN_USE = (router_pb2, http_connection_manager_pb2, tls_pb2)
"""JSON names these types; their modules must be imported for that."""
HCM = "type.googleapis.com/envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager"
ADS: dict[str, Any] = {"ads": {}, "resource_api_version": "V3", "initial_fetch_timeout": "0s"}


def cluster(name: str = "backend", *, timeout: str = "1s", tls: bool = False) -> bytes:
    config: dict[str, Any] = {
        "name": name,
        "type": "EDS",
        "connect_timeout": timeout,
        "eds_cluster_config": {"eds_config": ADS},
    }
    if tls:
        sds = {"name": "workload", "sds_config": ADS}
        roots = {"name": "trust-bundle", "sds_config": ADS}
        config["transport_socket"] = {
            "name": "envoy.transport_sockets.tls",
            "typed_config": {
                "@type": "type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.UpstreamTlsContext",
                "common_tls_context": {
                    "tls_certificate_sds_secret_configs": [sds],
                    "validation_context_sds_secret_config": roots,
                },
            },
        }
    return json_format.ParseDict(config, Cluster()).SerializeToString(deterministic=True)


def endpoints(port: int, name: str = "backend") -> bytes:
    endpoint = {"endpoint": {"address": {"socket_address": {"address": "127.0.0.1", "port_value": port}}}}
    config = {"cluster_name": name, "endpoints": [{"lb_endpoints": [endpoint]}]}
    return json_format.ParseDict(config, ClusterLoadAssignment()).SerializeToString(deterministic=True)


def listener(address: str = "127.0.0.1", prefix: str = "in") -> bytes:
    manager = {
        "@type": HCM,
        "stat_prefix": prefix,
        "rds": {"route_config_name": "routes", "config_source": ADS},
        "http_filters": [
            {
                "name": "envoy.filters.http.router",
                "typed_config": {"@type": "type.googleapis.com/envoy.extensions.filters.http.router.v3.Router"},
            }
        ],
    }
    config = {
        "name": "outbound",
        "address": {"socket_address": {"address": address, "port_value": 0}},
        "filter_chains": [{"filters": [{"name": "hcm", "typed_config": manager}]}],
    }
    return json_format.ParseDict(config, Listener()).SerializeToString(deterministic=True)


def routes(text: str = "hello", *, to: str = "") -> bytes:
    action: dict[str, Any] = (
        {"route": {"cluster": to}} if to else {"direct_response": {"status": 200, "body": {"inline_string": text}}}
    )
    config = {
        "name": "routes",
        "virtual_hosts": [{"name": "all", "domains": ["*"], "routes": [{"match": {"prefix": "/"}, **action}]}],
    }
    return json_format.ParseDict(config, RouteConfiguration()).SerializeToString(deterministic=True)


def whole(**changed: dict[str, bytes]) -> dict[str, dict[str, dict[str, bytes]]]:
    """One class with a cluster, its endpoints, a listener and routes."""
    types = {
        CDS: {"backend": cluster()},
        EDS: {"backend": endpoints(9)},
        LDS: {"outbound": listener()},
        RDS: {"routes": routes()},
    }
    return {"web": types | {{"cds": CDS, "eds": EDS, "lds": LDS, "rds": RDS}[k]: v for k, v in changed.items()}}


@pytest.fixture
async def mesh(tmp_path: Path) -> AsyncIterator[World]:
    async with world(tmp_path) as made:
        yield made


def sidecar(mesh: World, edge: App) -> Any:
    return running(
        port=edge.server.port,
        token=mesh.issuer.token("shop", "default", "web-1", "u1"),
        roots=mesh.ca.root_pem,
        node=POD,
        edge_identity="spiffe://cluster.local/ns/meshlog-system/sa/meshlog-xds-edge",
    )


async def configured(mesh: World, envoy: RealEnvoy, version: int) -> int:
    await mesh.acked(POD, version)
    return await eventually(lambda: envoy.listener_port("outbound"), within=10, what="the listener is there") or 0


PROXY = {POD: ("u1", "web")}


async def test_a_real_envoy_is_configured_and_its_acks_reach_the_log(mesh: World) -> None:
    version = await mesh.compiler.publish(whole(), PROXY)
    edge = await mesh.edge()
    async with sidecar(mesh, edge) as envoy:
        port = await configured(mesh, envoy, version)
        assert await envoy.get(port) == (200, "hello")
        version = await mesh.compiler.publish(whole(rds={"routes": routes("changed")}), PROXY)
        await mesh.acked(POD, version)
        assert await envoy.get(port) == (200, "changed")


async def test_nothing_is_sent_again_after_a_restart_of_the_edge(mesh: World) -> None:
    """By Envoy's own counters; the certificate it holds counts too."""
    version = await mesh.compiler.publish(whole(cds={"backend": cluster(tls=True)}), PROXY)
    edge = await mesh.edge()
    async with sidecar(mesh, edge) as envoy:
        port = await configured(mesh, envoy, version)
        before = await envoy.stats()
        updates = {name: value for name, value in before.items() if name.endswith((".update_success", ".version"))}
        assert len(updates) >= 4
        signed = len(mesh.ca.signed)
        await mesh.kill_edge(edge)
        edge = await mesh.edge(port=edge.server.port)
        await eventually(lambda: edge.counters.streams == 1, within=10, what="Envoy is back")
        await mesh.acked(POD, version)
        after = await envoy.stats()
        assert {name: after[name] for name in updates} == updates
        assert edge.counters.pushes == 0
        # Only the edge's own certificate was signed, not the proxy's.
        assert len(mesh.ca.signed) == signed + 1
        version = await mesh.compiler.publish(
            whole(cds={"backend": cluster(tls=True)}, rds={"routes": routes("changed")}), PROXY
        )
        await mesh.acked(POD, version)
        assert await envoy.get(port) == (200, "changed")
        assert edge.counters.pushes == 1


async def test_a_refusal_is_reported_in_envoys_words_and_the_rest_goes_on(mesh: World) -> None:
    version = await mesh.compiler.publish(whole(), PROXY)
    edge = await mesh.edge()
    async with sidecar(mesh, edge) as envoy:
        port = await configured(mesh, envoy, version)
        bad = await mesh.compiler.publish(
            whole(lds={"outbound": listener("not-an-address")}, rds={"routes": routes("changed")}), PROXY
        )

        async def refused() -> bool:
            status = await mesh.status(POD)
            refusal = status.types[LDS].refusal
            return refusal is not None and "not-an-address" in refusal.message and refusal.version == bad

        await eventually(refused, within=10, what="the refusal is in the log")
        await eventually(lambda: envoy_says(envoy, port, "changed"), within=10, what="the routes arrived all the same")
        pushes = edge.counters.pushes
        good = await mesh.compiler.publish(whole(rds={"routes": routes("again")}), PROXY)
        await mesh.acked(POD, good)
        assert edge.counters.pushes - pushes == 2
        assert (await mesh.status(POD)).types[LDS].refusal is None


async def test_a_new_cluster_is_warm_before_a_route_uses_it(mesh: World) -> None:
    """Each request gets an answer from a cluster that is there: make before break."""
    version = await mesh.compiler.publish(whole(), PROXY)
    edge = await mesh.edge()
    async with sidecar(mesh, edge) as envoy:
        port = await configured(mesh, envoy, version)
        for number in range(6):
            name = f"backend-{number}"
            version = await mesh.compiler.publish(
                whole(
                    cds={name: cluster(name)},
                    eds={name: endpoints(1, name)},
                    rds={"routes": routes(to=name)},
                ),
                PROXY,
            )
            await mesh.acked(POD, version)
            status, text = await envoy.get(port)
            # The endpoint refuses connections; a missing cluster would be reported as missing.
            assert status == 503
            assert "delayed connect error" in text or "connection" in text
        stats = await envoy.stats()
        assert stats.get("cluster_manager.active_clusters") == 2
        assert stats.get("http.in.no_cluster", 0) == 0


async def test_a_changed_cluster_warms_though_its_endpoints_did_not_change(mesh: World) -> None:
    version = await mesh.compiler.publish(whole(), PROXY)
    edge = await mesh.edge()
    async with sidecar(mesh, edge) as envoy:
        await configured(mesh, envoy, version)
        version = await mesh.compiler.publish(whole(cds={"backend": cluster(timeout="7s")}), PROXY)

        async def warm() -> bool:
            stats = await envoy.stats()
            return stats["cluster_manager.cluster_modified"] == 1 and stats["cluster_manager.warming_clusters"] == 0

        await eventually(warm, within=5, what="the changed cluster is in use")
        await mesh.acked(POD, version)
        assert '"connect_timeout": "7s"' in await envoy.config()


async def test_secrets_reach_a_real_envoy(mesh: World) -> None:
    version = await mesh.compiler.publish(whole(cds={"backend": cluster(tls=True)}), PROXY)
    edge = await mesh.edge()
    async with sidecar(mesh, edge) as envoy:
        await configured(mesh, envoy, version)
        status = await mesh.status(POD)
        assert status.types[SDS].acked == version
        stats = await envoy.stats()
        assert stats["cluster_manager.warming_clusters"] == 0


async def envoy_says(envoy: RealEnvoy, port: int, text: str) -> bool:
    return await envoy.get(port) == (200, text)
