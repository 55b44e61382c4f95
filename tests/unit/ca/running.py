"""A CA and a requester on a log in memory, running as tasks of the test."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncGenerator, Callable
from typing import Any

from services.ca.app import App, default_root
from services.ca.core.kube_api import KubeApi
from services.ca.core.provider import Provider
from services.ca.core.root_certificates import WantedRoot
from services.ca.keys.authority import (
    Authority,
    StoredAuthority,
    decode_authority,
    encode_authority,
    generate_authority,
)
from services.ca.providers.builtin import BuiltinProvider
from services.ca.settings import CaSettings
from shared.eventlog.protocol import Logs
from shared.identity.bundle import BundleFollower
from shared.identity.svid_requester import CertificateRequester
from shared.projected_objects import Meta, PolicyObject
from shared.records.events import Event
from shared.records.subjects import Streams
from tests.unit.identity.cluster import Cluster

TRUST_DOMAIN = "cluster.local"


class MemoryKeyStore:
    """Keys of any number of roots in memory, as they are stored; outlives the CAs of a test."""

    def __init__(self) -> None:
        self.stored: dict[str, bytes] = {}

    def of(self, wanted: WantedRoot) -> MemoryKeys:
        return MemoryKeys(self, wanted.name)


class MemoryKeys:
    """A `KeyStore`."""

    def __init__(self, store: MemoryKeyStore, name: str) -> None:
        self._store = store
        self._name = name

    async def load(self, trust_domain: str) -> Authority | None:
        raw = self._store.stored.get(self._name)
        return decode_authority(raw, trust_domain=trust_domain, about=self._name) if raw is not None else None

    async def create(self, stored: StoredAuthority) -> None:
        self._store.stored.setdefault(self._name, encode_authority(stored))

    async def replace(self, stored: StoredAuthority) -> None:
        self._store.stored[self._name] = encode_authority(stored)

    async def load_or_create(self, trust_domain: str, create: Callable[[], StoredAuthority]) -> Authority:
        found = await self.load(trust_domain)
        if found is None:
            await self.create(create())
            found = await self.load(trust_domain)
        assert found is not None
        return found


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
    store: MemoryKeyStore | None = None,
    provider: Provider | None = None,
    kube: KubeApi | None = None,
    clock: Callable[[], float] = time.time,
    **settings: Any,
) -> AsyncGenerator[App]:
    chosen = CaSettings(**settings)
    store = store or MemoryKeyStore()
    ca = App(chosen, store=store.of, kube=kube, clock=clock)
    if authority is not None or provider is not None:
        ca.roots.add(default_root(chosen), provider or BuiltinProvider(authority or new_authority(clock)))
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


def wanted_event(cluster: Cluster, name: str, trust_domain: str, role: str, provider: str = "builtin") -> Event:
    """The event of a MeshRootCertificate."""
    spec = {"role": role, "trustDomain": trust_domain, "provider": {provider: {}}}
    meta = Meta(name=name, namespace="meshlog-system", uid=f"uid-{name}")
    return cluster.event("MeshRootCertificate", "meshlog-system", name, PolicyObject(metadata=meta, spec=spec))
