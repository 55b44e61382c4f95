"""A member of the mesh that joins while others attack: how long until it is served."""

from __future__ import annotations

import asyncio
import math
import ssl
import time
from collections.abc import Sequence

import msgspec

from benchmarks.swarm.http2 import GrpcStream
from benchmarks.swarm.wire import CDS, DELTA_PATH, read_response, write_request
from shared.timing.backoff import Backoff
from tests.floods.assailant import client_context
from tests.floods.dose import Target

_BACKOFF = Backoff(first=0.1, longest=1.0)
"""As the bootstrap of the sidecars says."""


class Joins(msgspec.Struct, kw_only=True):
    """Times of some fresh joins, in seconds: TCP, TLS, token, first response. `inf`: not served in time."""

    seconds: list[float] = msgspec.field(default_factory=list[float])

    @property
    def p50(self) -> float:
        """The median; NaN of none."""
        ordered = sorted(self.seconds)
        return ordered[len(ordered) // 2] if ordered else math.nan

    @property
    def worst(self) -> float:
        """The longest."""
        return max(self.seconds, default=math.nan)

    @property
    def unserved(self) -> int:
        """Joins that were given up."""
        return sum(math.isinf(one) for one in self.seconds)


async def join(target: Target, *, node: str, within: float = 10.0) -> float:
    """Join once as a sidecar does, with its retries, and leave; the seconds that it took, or `inf`."""
    context = client_context(target)
    began = time.monotonic()
    delays = _BACKOFF.delays()
    try:
        async with asyncio.timeout(within):
            while not await _served(target, context, node):
                pause = delays.next()
                await asyncio.sleep(pause)
    except TimeoutError:
        return math.inf
    return time.monotonic() - began


async def joins(
    members: Sequence[tuple[Target, str]], *, duration: float, within: float = 10.0, every: float = 0.06
) -> Joins:
    """Join each `every` seconds for so many seconds, as one of these (how it reaches the edge, node id) after another.

    A join begins when its time has come, whatever became of those before: a server that stalls for a second would
    otherwise be asked once in that second, and its median would know nothing of it.
    """
    running: list[asyncio.Task[float]] = []
    loop = asyncio.get_running_loop()
    began = loop.time()
    try:
        for number in range(max(1, round(duration / every))):
            await asyncio.sleep(max(0.0, began + number * every - loop.time()))
            member, node = members[number % len(members)]
            running.append(loop.create_task(join(member, node=node, within=within)))
        return Joins(seconds=list(await asyncio.gather(*running)))
    finally:
        for one in running:
            one.cancel()
        await asyncio.gather(*running, return_exceptions=True)


async def _served(target: Target, context: ssl.SSLContext, node: str) -> bool:
    """One attempt: true with the first response that holds a resource, false if it is refused."""
    answered: asyncio.Future[bool] = asyncio.get_running_loop().create_future()

    def take(payload: bytes) -> None:
        if not answered.done() and read_response(payload).resources:
            answered.set_result(True)

    def ended() -> None:
        if not answered.done():
            answered.set_result(False)

    try:
        _, stream = await asyncio.get_running_loop().create_connection(
            lambda: GrpcStream(
                authority=target.authority,
                path=DELTA_PATH,
                metadata=[("authorization", f"Bearer {target.token}")],
                tls=True,
                message=take,
                ended=ended,
            ),
            target.host,
            target.port,
            ssl=context,
            server_hostname=target.authority,
            local_addr=(target.sources[0], 0) if target.sources else None,
        )
    except OSError:
        return False
    try:
        stream.send(write_request(CDS, node=node))
        return await answered
    finally:
        stream.close()
