"""What no writer of the mesh wrote changes nothing that is compiled, and stops nothing."""

from __future__ import annotations

import base64
import copy
import zlib
from typing import Any

import msgspec
import pytest

from shared.eventlog.protocol import GENESIS, HEADER_AFTER, HEADER_BATCH, HEADER_CHAIN, HEADER_EPOCH, Draft, chain_after
from shared.records import events
from shared.records.events import Event
from shared.records.pins import PIN_KIND, PIN_NAME
from shared.streams.memory import MemoryLogs
from tests.chained import write_chained
from tests.unit.compiler import objects
from tests.unit.compiler.log.test_publisher import SCOPE, STREAMS, Running, read_back, recorded, running, write

ANSWER = b'{"type":"io.nats.jetstream.api.v1.stream_info_response","total":0}'
PIN_SUBJECT = STREAMS.event_subject(objects.CLUSTER, PIN_KIND, "", PIN_NAME)


def forged_target() -> Event:
    rules = [("HTTPRouteGroup", "routes", ["buy"])]
    return objects.target("store", "forged", destination="store-v1", sources=[("buy", "thief")], rules=rules)


def pin(body: Any) -> Event:
    raw = msgspec.Raw(msgspec.json.encode(body))
    return Event(1, objects.CLUSTER, PIN_KIND, "", PIN_NAME, "u", "1", "applied", "meshlog.io/1", raw)


async def follows_on(found: Running, logs: MemoryLogs) -> None:
    """What comes next is published as ever."""
    await write(logs, [objects.namespace(f"next-{(await logs.stream(STREAMS.events).bounds())[1]}")])
    _, last = await logs.stream(STREAMS.events).bounds()
    await found.reaches(last)
    assert found.ready["events"] == (True, "")


@pytest.mark.parametrize("restarted", [False, True])
async def test_a_record_without_a_chain_stops_no_compiler(*, restarted: bool) -> None:
    logs, mesh = await recorded()
    log = logs.stream(STREAMS.events)
    if restarted:
        log.intrude(STREAMS.event_subject(objects.CLUSTER, "Pod", "x", "y"), ANSWER)
    async with running(logs) as found:
        await found.reaches(len(mesh))
        log.intrude(STREAMS.event_subject(objects.CLUSTER, "Pod", "x", "y"), ANSWER)
        log.intrude(forged_target().subject(STREAMS), events.encode(forged_target()))
        log.intrude(mesh[0].subject(STREAMS))
        await follows_on(found, logs)
        assert not found.published.quarantine
        assert logs.foreign.counts == {STREAMS.events: 4 if restarted else 3}


async def test_neither_commits_nor_keyframes_are_hidden_by_heartbeats() -> None:
    logs, mesh = await recorded()
    snapshots, keyframes = logs.stream(STREAMS.snapshots), logs.stream(STREAMS.keyframes)
    async with running(logs) as found:
        await found.reaches(len(mesh))
        for _ in range(3):
            snapshots.intrude(STREAMS.snapshot_subject)
            keyframes.intrude(STREAMS.keyframe_subject, ANSWER)
        await follows_on(found, logs)
    snapshots.intrude(STREAMS.snapshot_subject)
    written = len(snapshots.sequences), len(keyframes.sequences)
    async with running(logs) as again:
        await again.reaches(len(mesh) + 1)
        assert not again.publication.snapshots.doubtful
        await again.is_ready()
    assert (len(snapshots.sequences), len(keyframes.sequences)) == written, "a restart says nothing again"
    assert (await read_back(logs)).version == len(mesh) + 1


@pytest.mark.parametrize(
    "said",
    [
        events.encode(forged_target()),
        events.encode(objects.mesh_config(permissive=True)),
        events.encode(msgspec.structs.replace(pin({"version": 1}), cluster="elsewhere")),
        events.encode(msgspec.structs.replace(pin({"version": 1}), kind="Unheard")),
        b'{"schema": 99, "cluster": "x", "kind": "TrafficTarget", "namespace": "", "name": "mesh"}',
        ANSWER,
        b"",
    ],
)
async def test_who_may_write_pins_writes_nothing_else(said: bytes) -> None:
    """The record continues the chain, under the subject of the pin; only what it says is another thing."""
    logs, mesh = await recorded()
    async with running(logs) as found:
        await found.reaches(len(mesh))
        before = copy.deepcopy(found.published.views)
        await write_chained(logs.stream(STREAMS.events), Draft(PIN_SUBJECT, said), scope=SCOPE)
        await follows_on(found, logs)
        assert found.publication.tally.skipped == 1
        assert found.published.views == before
        assert not found.published.quarantine


@pytest.mark.parametrize("before", [GENESIS, "a" * 32])
async def test_a_pin_that_continues_no_chain_voids_and_breaks_nothing(before: str) -> None:
    logs, mesh = await recorded()
    log = logs.stream(STREAMS.events)
    async with running(logs) as found:
        await found.reaches(len(mesh))
        payload = events.encode(pin({"version": 1}))
        after = chain_after(before, PIN_SUBJECT, payload)
        headers = {HEADER_EPOCH: "ffffffff-e9", HEADER_CHAIN: before, HEADER_BATCH: "1/1", HEADER_AFTER: after}
        log.intrude(PIN_SUBJECT, payload, headers)
        await follows_on(found, logs)
        assert found.published.epoch == "e1"
        assert found.published.views


async def test_what_a_pin_smuggles_beside_policy_is_not_in_force() -> None:
    logs, mesh = await recorded()
    smuggled = [
        objects.pod("buy", "invented", account="thief", ip="10.9.9.9"),
        msgspec.structs.replace(forged_target(), cluster="elsewhere"),
    ]
    body = {"version": 1, "objects": [[1, msgspec.Raw(events.encode(one))] for one in smuggled]}
    async with running(logs) as found:
        await found.reaches(len(mesh))
        proxies = set(found.published.proxies)
        await write(logs, [pin(body)])
        await found.reaches(len(mesh) + 1)
        assert set(found.published.proxies) == proxies


@pytest.mark.parametrize(
    "packed",
    [
        zlib.compress(b"[" + b"0," * (10 << 20) + b"0]"),
        zlib.compress(b"[" + b"[1,0]," * 1_000_000 + b"[1,0]]"),
        zlib.compress(b"[" * 1_000_000),
        zlib.compress(b"[]")[:-3],
        b"nothing",
    ],
)
async def test_a_pin_that_is_a_bomb_is_refused_before_it_takes_the_memory(packed: bytes) -> None:
    logs, mesh = await recorded()
    async with running(logs) as found:
        await found.reaches(len(mesh))
        views = copy.deepcopy(found.published.views)
        await write(logs, [pin({"version": 1, "packed": base64.b64encode(packed).decode()})])
        await found.reaches(len(mesh) + 1)
        assert found.published.views == views
        assert [one.code for one in found.published.quarantine] == ["pin/corrupt"]
