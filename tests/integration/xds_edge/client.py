"""A proxy that a test controls."""

from __future__ import annotations

import asyncio
import contextlib
from typing import Any, Self

import grpc.aio
from envoy.service.discovery.v3.discovery_pb2 import DeltaDiscoveryRequest, DeltaDiscoveryResponse

from shared.records.snapshot import CDS, EDS, LDS, RDS, SDS
from tests.integration.xds_edge.names import EDGE_DNS, POD


class Client:
    """A delta client over real TLS, one stream; `roots`: PEM that the edge must prove itself to."""

    def __init__(self, roots: str, port: int, token: str) -> None:
        credentials = grpc.ssl_channel_credentials(root_certificates=roots.encode())
        self.channel = grpc.aio.secure_channel(
            f"127.0.0.1:{port}",
            credentials,
            options=[
                ("grpc.ssl_target_name_override", EDGE_DNS),
                ("grpc.max_receive_message_length", -1),
                ("grpc.use_local_subchannel_pool", 1),
                # Its window stays as it is: what the test does not read stays with the server.
                ("grpc.http2.bdp_probe", 0),
            ],
        )
        method = self.channel.stream_stream(
            "/envoy.service.discovery.v3.AggregatedDiscoveryService/DeltaAggregatedResources"
        )
        metadata = [("authorization", f"Bearer {token}")] if token != "none" else []
        self.call = method(metadata=metadata)
        self.held: dict[str, dict[str, str]] = {}
        self._reading: asyncio.Future[object] | None = None

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_exc: object) -> None:
        self.call.cancel()
        if self._reading is not None:
            self._reading.cancel()
        with contextlib.suppress(asyncio.CancelledError, grpc.aio.AioRpcError):
            await self.call.wait_for_connection()
        await self.channel.close()

    async def send(self, type_url: str, node_id: str = "", **fields: Any) -> None:
        request = DeltaDiscoveryRequest(type_url=type_url, **fields)
        if node_id:
            request.node.id = node_id
        await self.call.write(request.SerializeToString())

    async def receive(self, within: float = 10.0) -> DeltaDiscoveryResponse:
        # A read that is cancelled would end the call: it is kept for the next time instead.
        reading = self._reading or asyncio.ensure_future(self.call.read())
        self._reading = reading
        done, _ = await asyncio.wait([reading], timeout=within)
        if not done:
            raise TimeoutError
        self._reading = None
        payload = reading.result()
        if not isinstance(payload, bytes):
            raise EOFError(await self.call.code())  # noqa: TRY004 (grpc's mark of the end)
        response = DeltaDiscoveryResponse.FromString(payload)
        held = self.held.setdefault(response.type_url, {})
        for resource in response.resources:
            held[resource.name] = resource.version
        for name in response.removed_resources:
            held.pop(name, None)
        return response

    async def ack(self, response: DeltaDiscoveryResponse, error: str = "") -> None:
        request = DeltaDiscoveryRequest(type_url=response.type_url, response_nonce=response.nonce)
        if error:
            request.error_detail.code = 3
            request.error_detail.message = error
        await self.call.write(request.SerializeToString())

    async def follow_all(self, **initial: dict[str, str]) -> None:
        """Subscribe as an Envoy does that needs everything."""
        for type_url, names in ((CDS, []), (EDS, ["c"]), (LDS, []), (RDS, ["r"]), (SDS, ["workload", "trust-bundle"])):
            await self.send(
                type_url, POD, resource_names_subscribe=names, initial_resource_versions=initial.get(type_url, {})
            )

    async def drain(self, count: int) -> list[str]:
        """Accept that many responses; their types in order."""
        seen: list[str] = []
        for _ in range(count):
            response = await self.receive()
            seen.append(response.type_url)
            await self.ack(response)
        return seen

    async def code(self) -> grpc.StatusCode:
        """The status that the stream ended with."""
        return await asyncio.wait_for(self.call.code(), 10)
