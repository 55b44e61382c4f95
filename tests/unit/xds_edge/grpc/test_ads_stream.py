"""A stream without a network: its end, its time-outs, and refusals that ask the proxy to retry."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncGenerator

import msgspec
import pytest
from envoy.service.discovery.v3.discovery_pb2 import DeltaDiscoveryRequest, DeltaDiscoveryResponse

from services.xds_edge.admission.token_origin import Policy, TokenOrigin
from services.xds_edge.counters import EdgeCounters
from services.xds_edge.errors import Code, StreamRefusedError
from services.xds_edge.grpc.ads_stream import ProxyStream
from services.xds_edge.grpc.stream_services import StreamLimits, StreamServices
from services.xds_edge.proxy_status.reporter import StatusReporter
from services.xds_edge.sds.workload_secrets import WorkloadSecrets
from services.xds_edge.snapshot.fleet import Fleet
from services.xds_edge.xds.name_budget import NameLedgers
from services.xds_edge.xds.response_cache import ResponseCache
from shared.identity.service_account_tokens import WorkloadToken
from shared.identity.spiffe import SpiffeId
from shared.identity.svid import IssuedSvid
from shared.records.snapshot import CDS, EDS, FORMAT, Commit, Proxy, Resource, ViewChange
from shared.records.subjects import Streams
from tests.waiting import eventually

CLAIMS = WorkloadToken(
    cluster="c",
    namespace="n",
    service_account="s",
    service_account_uid="su",
    pod_name="p",
    pod_uid="u",
    issued_at=0,
    expires_at=1e12,
    jti="",
)


class Channel:
    """The requests of the proxy are put in `sent`; it reads only while `reads` is set."""

    def __init__(self) -> None:
        self.sent: asyncio.Queue[bytes | None] = asyncio.Queue()
        self.received: list[bytes] = []
        self.waiting = False
        self.delay = 0.0
        self.reads = asyncio.Event()
        self.reads.set()

    async def read(self) -> bytes | None:
        return await self.sent.get()

    async def write(self, *parts: bytes) -> None:
        self.waiting = True
        await self.reads.wait()
        self.waiting = False
        self.received.append(b"".join(parts))

    def ask(self, type_url: str, *names: str, holds: dict[str, str] | None = None) -> None:
        self.sent.put_nowait(
            DeltaDiscoveryRequest(
                type_url=type_url, resource_names_subscribe=names, initial_resource_versions=holds or {}
            ).SerializeToString()
        )


async def never(_token: str, _spiffe_id: SpiffeId) -> IssuedSvid:
    raise AssertionError("nothing is signed here")


def shared(limits: StreamLimits | None = None, *, policy: Policy = "count") -> StreamServices:
    fleet, counters = Fleet(), EdgeCounters()
    fleet.confirmed = True
    return StreamServices(
        fleet=fleet,
        responses=ResponseCache(fleet.body),
        secrets=WorkloadSecrets(never),
        reporter=StatusReporter(streams=Streams(), edge="e"),
        counters=counters,
        origin=TokenOrigin(policy, counters),
        edge="e",
        limits=limits or StreamLimits(),
    )


def commit(version: int, *, uid: str = "u", gone: bool = False, addresses: tuple[str, ...] | None = None) -> Commit:
    body = b"%d" % version
    return Commit(
        format=FORMAT,
        version=version,
        parent=version - 1,
        epoch="e",
        build="b",
        resources=[Resource(kind, "c", str(version), body) for kind in (CDS, EDS)],
        retired=[(kind, "c", str(version - 1)) for kind in (CDS, EDS)],
        views={"web": ViewChange({kind: {"c": str(version)} for kind in (CDS, EDS)})},
        proxies={"c/n/p": None if gone else Proxy("c", "n", "p", uid, "s", "web", addresses)},
    )


async def test_the_end_of_the_clients_side_ends_the_stream() -> None:
    services, channel = shared(), Channel()
    services.fleet.apply(commit(1))
    running = asyncio.ensure_future(ProxyStream(services, channel, CLAIMS, "t").run())
    channel.ask(CDS)
    await eventually(lambda: channel.received, within=5, what="a response")
    channel.sent.put_nowait(None)
    await asyncio.wait_for(running, 5)
    assert services.fleet.streams == []
    assert services.counters.streams == 0


async def test_a_proxy_that_does_not_read_is_let_go() -> None:
    services, channel = shared(StreamLimits(write_timeout=0.02)), Channel()
    services.fleet.apply(commit(1))
    channel.reads.clear()
    channel.ask(CDS)
    with pytest.raises(StreamRefusedError, match="not read"):
        await asyncio.wait_for(ProxyStream(services, channel, CLAIMS, "t").run(), 5)
    assert services.counters.write_timeouts == 1


async def test_bodies_that_retire_while_a_write_waits_do_no_harm() -> None:
    """The responses of one turn are made together, before the first of them is written."""
    services, channel = shared(), Channel()
    channel.reads.clear()
    channel.ask(CDS)
    channel.ask(EDS, "c")
    running = asyncio.ensure_future(ProxyStream(services, channel, CLAIMS, "t").run())
    await eventually(channel.sent.empty, within=5, what="both requests are read")
    services.fleet.apply(commit(1))
    await eventually(lambda: channel.waiting, within=5, what="the first write waits")
    services.fleet.apply(commit(2))
    channel.reads.set()
    await eventually(lambda: len(channel.received) == 2 or running.done(), within=5, what="both responses")
    assert not running.done()
    running.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await running


@pytest.mark.parametrize("change", [commit(2, gone=True), commit(2, uid="another")])
async def test_a_stream_ends_with_its_pod(change: Commit) -> None:
    services, channel = shared(), Channel()
    services.fleet.apply(commit(1))
    running = asyncio.ensure_future(ProxyStream(services, channel, CLAIMS, "t").run())
    channel.ask(CDS)
    await eventually(lambda: channel.received, within=5, what="a response")
    services.fleet.apply(change)
    with pytest.raises(StreamRefusedError) as refused:
        await asyncio.wait_for(running, 5)
    assert refused.value.status == Code.PERMISSION_DENIED


async def test_a_cancelled_stream_is_not_swallowed() -> None:
    services, channel = shared(), Channel()
    services.fleet.apply(commit(1))
    running = asyncio.ensure_future(ProxyStream(services, channel, CLAIMS, "t").run())
    await eventually(lambda: services.fleet.streams, within=5, what="the stream joins")
    running.cancel()
    with pytest.raises(asyncio.CancelledError):
        await running
    assert services.fleet.streams == []


@contextlib.asynccontextmanager
async def streaming(services: StreamServices, channel: Channel) -> AsyncGenerator[None]:
    running = asyncio.ensure_future(ProxyStream(services, channel, CLAIMS, "t").run())
    try:
        yield
        assert not running.done()
    finally:
        running.cancel()
        await asyncio.wait({running})


async def test_while_the_log_is_away_who_comes_with_configuration_is_left_alone() -> None:
    """Another edge may have served it a newer version (P3)."""
    services, newcomer, warm = shared(), Channel(), Channel()
    services.fleet.apply(commit(1))
    services.fleet.confirmed = False
    warm.ask(CDS, holds={"c": "2"})
    newcomer.ask(CDS)
    async with streaming(services, warm), streaming(services, newcomer):
        await eventually(lambda: newcomer.received, within=5, what="who holds nothing is served")
        await eventually(warm.sent.empty, within=5, what="the other's request is read")
        assert not warm.received
        services.fleet.confirmed = True
        services.fleet.wake_all()
        await eventually(lambda: warm.received, within=5, what="the other is served when the log is back")


async def test_who_was_served_before_the_log_went_away_is_served_on() -> None:
    services, warm = shared(), Channel()
    services.fleet.apply(commit(1))
    warm.ask(CDS, holds={"c": "0"})
    async with streaming(services, warm):
        await eventually(lambda: warm.received, within=5, what="a response")
        services.fleet.confirmed = False
        warm.ask(EDS, "c")
        await eventually(lambda: len(warm.received) == 2, within=5, what="a response to what it asks next")


HERE, ELSEWHERE = "10.1.2.3", "10.9.9.9"


async def ended(stream: ProxyStream) -> StreamRefusedError:
    with pytest.raises(StreamRefusedError) as refused:
        await asyncio.wait_for(stream.run(), 5)
    return refused.value


@pytest.mark.parametrize("addresses", [None, (), (HERE,), ("fd00::1", HERE)])
async def test_a_token_that_is_used_where_its_pod_is_is_served(addresses: tuple[str, ...] | None) -> None:
    services, channel = shared(), Channel()
    services.fleet.apply(commit(1, addresses=addresses))
    channel.ask(CDS)
    running = asyncio.ensure_future(ProxyStream(services, channel, CLAIMS, "t", address=HERE).run())
    await eventually(lambda: channel.received, within=5, what="a response")
    assert services.counters.address_mismatches == 0
    running.cancel()
    await asyncio.wait({running})


async def test_a_token_that_is_used_elsewhere_is_counted_once_and_served() -> None:
    services, channel = shared(), Channel()
    services.fleet.apply(commit(1, addresses=(HERE,)))
    channel.ask(CDS)
    running = asyncio.ensure_future(ProxyStream(services, channel, CLAIMS, "t", address=ELSEWHERE).run())
    await eventually(lambda: channel.received, within=5, what="a response")
    services.fleet.wake_all()
    assert services.counters.address_mismatches == 1
    running.cancel()
    await asyncio.wait({running})


async def test_a_token_that_is_used_elsewhere_is_refused_where_that_is_wanted() -> None:
    services, channel = shared(policy="refuse"), Channel()
    services.fleet.apply(commit(1, addresses=(HERE,)))
    channel.ask(CDS)
    refusal = await ended(ProxyStream(services, channel, CLAIMS, "t", address=ELSEWHERE))
    assert (refusal.status, refusal.code) == (Code.PERMISSION_DENIED, "stream/foreign-address")
    assert not channel.received


async def test_where_it_is_refused_a_pod_without_an_address_is_served_once_it_has_one() -> None:
    services, channel = shared(policy="refuse"), Channel()
    services.fleet.apply(commit(1, addresses=()))
    channel.ask(CDS)
    running = asyncio.ensure_future(ProxyStream(services, channel, CLAIMS, "t", address=HERE).run())
    await eventually(channel.sent.empty, within=5, what="its request is read")
    assert not channel.received
    services.fleet.apply(commit(2, addresses=(HERE,)))
    await eventually(lambda: channel.received, within=5, what="a response")
    running.cancel()
    await asyncio.wait({running})


async def test_a_pod_that_moves_takes_its_stream_along() -> None:
    """An address that is given to another pod is no right any more."""
    services, channel = shared(policy="refuse"), Channel()
    services.fleet.apply(commit(1, addresses=(HERE,)))
    channel.ask(CDS)
    stream = ProxyStream(services, channel, CLAIMS, "t", address=HERE)
    running = asyncio.ensure_future(ended(stream))
    await eventually(lambda: channel.received, within=5, what="a response")
    services.fleet.apply(commit(2, addresses=(ELSEWHERE,)))
    assert (await running).code == "stream/foreign-address"


async def test_names_beyond_what_a_pod_may_name_end_the_stream() -> None:
    services, channel = shared(), Channel()
    services = msgspec.structs.replace(services, names=NameLedgers(foreign_each=10_000))
    services.fleet.apply(commit(1))
    channel.ask(CDS)
    for number in range(3):
        channel.ask(EDS, f"{number}-" + "n" * 4000)
    refusal = await ended(ProxyStream(services, channel, CLAIMS, "t"))
    assert (refusal.status, refusal.code) == (Code.RESOURCE_EXHAUSTED, "stream/names")
    assert services.names.foreign.held == services.names.all.held == 0


async def test_a_version_is_held_once_a_name_that_does_not_exist_is_denied() -> None:
    """The last answer leaves nothing to send, but the watermark is still to move."""
    services, channel = shared(), Channel()
    services.fleet.apply(commit(1))
    stream = ProxyStream(services, channel, CLAIMS, "t")
    running = asyncio.ensure_future(stream.run())
    for type_url, names in ((CDS, ()), (EDS, ("c", "missing"))):
        received = len(channel.received)
        channel.ask(type_url, *names)
        await eventually(lambda received=received: len(channel.received) > received, within=5, what="a response")
        response = DeltaDiscoveryResponse.FromString(channel.received[-1])
        answer = DeltaDiscoveryRequest(type_url=response.type_url, response_nonce=response.nonce)
        channel.sent.put_nowait(answer.SerializeToString())
    await eventually(lambda: stream.synced, within=5, what="version 1 is held")
    running.cancel()
