"""The client status service (CSDS): which pods may call it, how often, and how large a response may be.

The caller is identified by the headers, before a message is read. Its pod must exist at each request, and an open call
ends when the pod is deleted. `csds` builds the responses.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence

from services.xds_edge.admission.pod_presence import PodPresence
from services.xds_edge.counters import EdgeCounters
from services.xds_edge.errors import Code, StreamRefusedError
from services.xds_edge.grpc import csds
from services.xds_edge.http2.call import GrpcCall
from services.xds_edge.http2.frame_reader import EARNED
from services.xds_edge.http2.write_timeout import WriteTimeout
from services.xds_edge.limits.pod_usage import PodUsage
from shared.identity.service_account_tokens import WorkloadToken

MOST_REQUEST = 64 * 1024
"""Bytes of a request: some hundred node ids."""
_AT_ONCE = 4
"""Responses under way at a time: each may have megabytes."""
_ANSWER = 10.0
"""Frames that a response costs the pod, beside its content."""
_LOOKED_AT = 50
"""Proxies that cost as much as one frame."""
_WRITTEN = 4096
"""Bytes of a response that cost as much as one frame, and as the frames that sending it would allow: otherwise
responses would pay for more requests."""
_LOOK_EVERY = 5.0
"""Seconds between checks that the pod of an open call exists."""


class ClientStatusService:
    """The client status calls of one edge."""

    def __init__(
        self,
        pods: PodPresence,
        proxies: Callable[[], Sequence[csds.HeldConfig]],
        body: Callable[[str, str, str], bytes],
        *,
        mesh_namespace: str,
        write_timeout: float,
        counters: EdgeCounters,
    ) -> None:
        """`proxies` returns what each proxy of this edge holds, in order; `body` returns the bytes of a resource."""
        self._pods = pods
        self._proxies = proxies
        self._body = body
        self._mesh_namespace = mesh_namespace
        self._write_timeout = write_timeout
        self._counters = counters
        self._slots = asyncio.Semaphore(_AT_ONCE)

    async def fetch(self, call: GrpcCall, claims: WorkloadToken, usage: PodUsage) -> None:
        """Respond once."""
        await self._pods.require(claims, call.address)
        payload = await call.read()
        if payload is None:
            raise StreamRefusedError(Code.INVALID_ARGUMENT, "csds/malformed", "there is no request")
        await self._answer(call, claims, usage, payload)

    async def stream(self, call: GrpcCall, claims: WorkloadToken, usage: PodUsage) -> None:
        """Respond to each request, until the client leaves or its pod is deleted."""
        await self._pods.require(claims, call.address)
        reading = asyncio.ensure_future(call.read())
        try:
            while True:
                done, _ = await asyncio.wait([reading], timeout=_LOOK_EVERY)
                await self._pods.require(claims)
                if not done:
                    continue
                payload = reading.result()
                if payload is None:
                    return
                await self._answer(call, claims, usage, payload)
                reading = asyncio.ensure_future(call.read())
        finally:
            reading.cancel()

    async def _answer(self, call: GrpcCall, claims: WorkloadToken, usage: PodUsage, payload: bytes) -> None:
        async with self._slots:
            proxies = self._proxies()
            answer = csds.answer(payload, claims, proxies, mesh_namespace=self._mesh_namespace, body=self._body)
            frames = 1 + len(answer) // _WRITTEN
            usage.frames.spend(_ANSWER + len(proxies) / _LOOKED_AT + (1 + EARNED) * frames)
            with WriteTimeout(self._write_timeout, self._counters, call):
                await call.write(answer)
