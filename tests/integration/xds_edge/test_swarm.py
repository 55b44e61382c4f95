"""The load generator by its command line: against a stranger's server in plain HTTP/2, and against an edge."""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import grpc.aio
import pytest
from envoy.config.cluster.v3.cluster_pb2 import Cluster
from envoy.service.discovery.v3.discovery_pb2 import DeltaDiscoveryRequest, DeltaDiscoveryResponse

from shared.records.snapshot import CDS, EDS, LDS
from tests.integration.xds_edge.names import EDGE_DNS
from tests.integration.xds_edge.world import world
from tests.waiting import eventually

pytestmark = pytest.mark.alone

PROXIES = 3


class Stranger:
    """A delta ADS server that is not an edge: one cluster for every client."""

    def __init__(self) -> None:
        self.requests: list[DeltaDiscoveryRequest] = []
        self.streams = 0

    async def serve(self, requests: AsyncIterator[bytes], context: Any) -> None:
        self.streams += 1
        async for payload in requests:
            request = DeltaDiscoveryRequest.FromString(payload)
            self.requests.append(request)
            if request.type_url == CDS and not request.response_nonce:
                cluster = Cluster(name="backend", type=Cluster.DiscoveryType.EDS)
                response = DeltaDiscoveryResponse(type_url=CDS, nonce="1", system_version_info="1")
                response.resources.add(name="backend", version="1").resource.Pack(cluster)
                await context.write(response.SerializeToString())


def lines(output: bytes) -> list[dict[str, Any]]:
    return [json.loads(line) for line in output.splitlines()]


async def run(*arguments: str) -> list[dict[str, Any]]:
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "benchmarks.swarm", *arguments, "--within", "20", stdout=-1, stderr=-1
    )
    output, errors = await asyncio.wait_for(process.communicate(), 40)
    assert process.returncode == 0, errors.decode()
    return lines(output)


async def test_it_loads_a_strangers_server_in_plain_http2_without_tokens() -> None:
    stranger, server = Stranger(), grpc.aio.server()
    handlers = {"DeltaAggregatedResources": grpc.stream_stream_rpc_method_handler(stranger.serve)}
    server.add_generic_rpc_handlers(
        (grpc.method_handlers_generic_handler("envoy.service.discovery.v3.AggregatedDiscoveryService", handlers),)
    )
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    try:
        connected, window = await run(
            f"127.0.0.1:{port}", "-n", str(PROXIES), "--node", "n~{number}", "--windows", "1", "--window", "0.5"
        )
    finally:
        await server.stop(None)
    assert (connected["what"], connected["proxies"]) == ("connected", PROXIES)
    assert connected["resources"] + window["resources"] == PROXIES
    assert {request.node.id for request in stranger.requests if request.node.id} == {f"n~{n}" for n in range(PROXIES)}
    asked = {(request.type_url, tuple(request.resource_names_subscribe)) for request in stranger.requests}
    assert {(CDS, ()), (LDS, ()), (EDS, ("backend",))} <= asked, "it follows what clusters refer to, as Envoy does"
    acks = [request for request in stranger.requests if request.response_nonce == "1"]
    assert len(acks) == PROXIES
    assert not any(request.HasField("error_detail") for request in acks)


async def test_it_loads_an_edge_over_tls_with_tokens_hangs_and_comes_back_warm(tmp_path: Path) -> None:
    async with world(tmp_path) as mesh:
        pods = {f"shop/p{number}": (f"u{number}", "web") for number in range(PROXIES)}
        await mesh.compiler.publish({"web": {CDS: {"c": Cluster(name="c").SerializeToString()}}}, pods)
        edge = await mesh.edge()
        (tmp_path / "roots").write_text(mesh.ca.root_pem)
        tokens = [mesh.issuer.token("shop", "default", f"p{number}", f"u{number}") for number in range(PROXIES)]
        (tmp_path / "tokens").write_text("\n".join(tokens))
        running = asyncio.ensure_future(
            run(
                f"127.0.0.1:{edge.server.port}",
                *("-n", str(PROXIES), "--roots", str(tmp_path / "roots"), "--authority", EDGE_DNS),
                *("--tokens", str(tmp_path / "tokens"), "--node", "shop/p{number}"),
                *("--churn", "4", "--slow", "1", "--windows", "2", "--window", "0.7"),
            )
        )
        await eventually(lambda: edge.counters.opened > PROXIES, within=20, what="connections that come back")
        connected, *windows = await running
        assert connected["proxies"] == PROXIES
        assert sum(window["opened"] for window in windows) > 0
        assert edge.counters.node_mismatches == 0
        read = connected["resources"] + sum(window["resources"] for window in windows)
        assert read == PROXIES - 1, "who comes back warm is sent nothing, and one reads nothing"


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["nowhere"], "is no HOST:PORT"),
        (["127.0.0.1:99999"], "is no HOST:PORT"),
        (["127.0.0.1:1", "--roots", "/nowhere"], "holds no roots"),
        (["127.0.0.1:1", "--tokens", "/nowhere"], "cannot be read"),
        (["127.0.0.1:1", "-n", "2", "--tokens", "{one}"], "holds 1 tokens, 2 are needed"),
    ],
)
def test_bad_input_is_told_in_one_sentence(tmp_path: Path, arguments: list[str], sentence: str) -> None:
    (tmp_path / "one").write_text("token")
    given = [argument.replace("{one}", str(tmp_path / "one")) for argument in arguments]
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks.swarm", *given], capture_output=True, check=False, text=True, timeout=60
    )
    assert done.returncode == 2
    assert sentence in done.stderr
    assert "Traceback" not in done.stderr
