"""Answers client status calls (CSDS): who may ask, how often, and how large an answer is.

The caller is known from the headers, before a message is read. Its pod must be there at each request, and a call that
is kept open ends when the pod goes. What an answer holds is `csds`' business.
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
"""Answers under way at a time: each may be megabytes."""
_ANSWER = 10.0
"""Frames that an answer costs the pod that asks, beside what is in it."""
_LOOKED_AT = 50
"""Proxies that cost it as much as one frame."""
_WRITTEN = 4096
"""Bytes of an answer that cost it as much as a frame, and what a frame that it is sent would entitle it to send: else
answers would pay for more questions."""
_LOOK_EVERY = 5.0
"""Seconds between looks at the pod of a call that is kept open."""


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
        """`proxies`: what each proxy of this edge holds, in order; `body`: the bytes of a resource."""
        self._pods = pods
        self._proxies = proxies
        self._body = body
        self._mesh_namespace = mesh_namespace
        self._write_timeout = write_timeout
        self._counters = counters
        self._turns = asyncio.Semaphore(_AT_ONCE)

    async def fetch(self, call: GrpcCall, claims: WorkloadToken, usage: PodUsage) -> None:
        """Answer once."""
        await self._pods.require(claims, call.address)
        payload = await call.read()
        if payload is None:
            raise StreamRefusedError(Code.INVALID_ARGUMENT, "csds/malformed", "there is no request")
        await self._answer(call, claims, usage, payload)

    async def stream(self, call: GrpcCall, claims: WorkloadToken, usage: PodUsage) -> None:
        """Answer each request, until the client or its pod is gone."""
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
        async with self._turns:
            proxies = self._proxies()
            answer = csds.answer(payload, claims, proxies, mesh_namespace=self._mesh_namespace, body=self._body)
            frames = 1 + len(answer) // _WRITTEN
            usage.frames.spend(_ANSWER + len(proxies) / _LOOKED_AT + (1 + EARNED) * frames)
            with WriteTimeout(self._write_timeout, self._counters, call):
                await call.write(answer)
