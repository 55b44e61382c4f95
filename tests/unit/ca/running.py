"""A CA and a requester on a log in memory, running as tasks of the test."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncGenerator, Callable
from typing import Any

from services.ca.assembly import CertificateAuthority
from services.ca.authority import Authority, decode_authority, encode_authority, generate_authority
from services.ca.kube import KubeApi
from services.ca.provider import BuiltinProvider, Provider
from services.ca.settings import CaSettings
from shared.eventlog.protocol import Logs
from shared.subjects import Streams
from shared.svid import BundleFollower, CertificateRequester

TRUST_DOMAIN = "cluster.local"


def new_authority(clock: Callable[[], float] = time.time) -> Authority:
    stored = generate_authority(TRUST_DOMAIN, clock=clock)
    return decode_authority(encode_authority(stored), trust_domain=TRUST_DOMAIN, about="test")


@contextlib.asynccontextmanager
async def tasks(*work: Any) -> AsyncGenerator[None]:
    """Run coroutines beside the body; a failure of one fails the test."""
    running = [asyncio.ensure_future(part) for part in work]
    try:
        yield
        for task in running:
            if task.done() and not task.cancelled():
                task.result()
    finally:
        for task in running:
            task.cancel()
        await asyncio.gather(*running, return_exceptions=True)


@contextlib.asynccontextmanager
async def certificate_authority(
    logs: Logs,
    *,
    authority: Authority | None = None,
    provider: Provider | None = None,
    kube: KubeApi | None = None,
    clock: Callable[[], float] = time.time,
    **settings: Any,
) -> AsyncGenerator[CertificateAuthority]:
    authority = authority or new_authority(clock)
    ca = CertificateAuthority(
        CaSettings(**settings),
        authority=authority,
        provider=provider or BuiltinProvider(authority),
        kube=kube,
        clock=clock,
    )
    async with tasks(*(part for _, part in await ca.parts(logs))):
        yield ca


@contextlib.asynccontextmanager
async def requester(
    logs: Logs, *, instance: str = "edge-1", streams: Streams | None = None, clock: Callable[[], float] = time.time
) -> AsyncGenerator[CertificateRequester]:
    streams = streams or Streams()
    certs = await logs.open(streams.certs)
    bundles = BundleFollower(certs, streams=streams, trust_domain=TRUST_DOMAIN)
    asking = CertificateRequester(
        csrs=await logs.open(streams.csrs),
        certs=certs,
        streams=streams,
        instance=instance,
        cluster="devcluster",
        bundles=bundles,
        clock=clock,
    )
    async with tasks(bundles.run(), asking.run()):
        yield asking
