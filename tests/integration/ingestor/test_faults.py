"""The faults of the Kubernetes side, one test each, by the wire; the numbers are those of docs/ingestor.md.

Whatever the API server does, the log ends equal to the cluster, and nothing is hammered, lost, repeated or deleted by
mistake.
"""

from __future__ import annotations

import asyncio
import itertools
import random
import time
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from services.ingestor.core.reflector import Failure
from shared.eventlog.memory import MemoryLog
from tests.integration.ingestor.faulty import FaultyApi, nothing, refusal
from tests.unit.ingestor.log.test_event_writer import agrees
from tests.unit.ingestor.rig import Rig, history, state
from tests.unit.ingestor.scripted import ScriptedServer
from tests.waiting import eventually

SPLIT: dict[str, Any] = {"metadata": {"name": "s", "namespace": "shop", "uid": "us"}, "spec": {"service": "x"}}


@pytest.fixture(params=["stream", pytest.param("pages", marks=pytest.mark.long)])
async def api(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncGenerator[FaultyApi]:
    """Once for each way in which a server can be asked for a list."""
    made = FaultyApi(tmp_path, streams=request.param == "stream")
    await made.start()
    yield made
    await made.stop()


@pytest.fixture
def log() -> MemoryLog:
    return MemoryLog()


@asynccontextmanager
async def ingesting(api: FaultyApi, log: MemoryLog, **options: Any) -> AsyncGenerator[Rig]:
    """An ingestor in front of the server, in step with it."""
    async with api.source() as source, Rig(source, log, **options) as rig:
        await agrees(log, api.server, "it is in step to begin with")
        await eventually(
            lambda: rig.writer.settled >= {"Pod", "TrafficSplit"}, within=5.0, what="all kinds are settled"
        )
        await eventually(lambda: api.server.watches, within=5.0, what="its watches are open")
        yield rig


def lists(api: FaultyApi) -> int:
    asked = [what for _, status, what in api.requests if what.startswith("/api/v1/pods") and status != 422]
    streamed = {what for what in asked if "sendInitialEvents" in what}
    return sum("watch" not in what for what in asked) + len(streamed)


async def test_01_a_watch_that_the_server_ends_goes_on_where_it_was(api: FaultyApi, log: MemoryLog) -> None:
    api.server.apply_pod("a")
    async with ingesting(api, log):
        for number in range(5):
            watches = api.server.watches
            api.server.hang_up()
            await eventually(lambda seen=watches: api.server.watches >= seen + 2, within=5.0, what="it watches again")
            api.server.apply_pod(f"n{number}")
        await agrees(log, api.server)
        assert lists(api) == 1
    assert len(await history(log)) == 6


async def test_02_after_410_what_vanished_meanwhile_is_deleted(api: FaultyApi, log: MemoryLog) -> None:
    for name in "abc":
        api.server.apply_pod(name)
    async with ingesting(api, log) as rig:
        api.server.silent = True
        api.server.delete("Pod", "shop", "b")
        api.server.compact()
        api.server.silent = False
        await agrees(log, api.server)
        assert rig.runners["Pod"].reflector.counts.gone == 1


async def test_03_repeated_410_is_waited_out_with_growing_pauses(api: FaultyApi, log: MemoryLog) -> None:
    api.server.apply_pod("a")
    async with ingesting(api, log) as rig:
        tip = await log.bounds()
        api.answers = [refusal(410) for _ in range(8)]
        api.server.hang_up()
        await eventually(lambda: not api.answers, within=5.0, what="the storm is over")
        assert await log.bounds() == tip
        api.server.apply_pod("b")
        await agrees(log, api.server)
        assert rig.runners["Pod"].reflector.counts.gone == 8
        times = [at for at, status, _ in api.requests if status == 410]
        gaps = [second - first for first, second in itertools.pairwise(times)]
        assert min(gaps[-3:]) > 0.009, "by then it waits the longest that this rig allows"


async def test_04_a_connection_that_says_nothing_any_more_is_replaced(api: FaultyApi, log: MemoryLog) -> None:
    async with ingesting(api, log, silence=0.2):
        api.stalled = True
        api.server.hang_up()
        watches = api.server.watches
        await eventually(lambda: api.server.watches > watches, within=5.0, what="a watch hangs")
        api.server.apply_pod("a")
        api.stalled = False
        await agrees(log, api.server)


async def test_05_retry_after_is_honoured_and_a_storm_of_500s_not_hammered(api: FaultyApi, log: MemoryLog) -> None:
    async with ingesting(api, log):
        api.answers = [refusal(429, retry_after="1"), *(refusal(503) for _ in range(5))]
        began = time.monotonic()
        api.server.hang_up()
        api.server.apply_pod("a")
        await agrees(log, api.server)
        assert time.monotonic() - began >= 1.0
        assert api.statuses().count(503) == 5
        assert api.statuses()[-1] == 200


async def test_06_a_server_that_is_away_changes_nothing_and_is_caught_up_with(api: FaultyApi, log: MemoryLog) -> None:
    for name in "abc":
        api.server.apply_pod(name)
    async with ingesting(api, log) as rig:
        tip = await log.bounds()
        await api.stop()
        await eventually(lambda: rig.runners["Pod"].reflector.failing, within=5.0, what="it says that it cannot follow")
        api.server.delete("Pod", "shop", "a")
        api.server.apply_pod("d")
        assert await log.bounds() == tip
        await api.start()
        await agrees(log, api.server)
        await eventually(lambda: not rig.runners["Pod"].reflector.failing, within=5.0, what="and that it can again")


async def test_07_a_list_from_the_past_deletes_nothing(api: FaultyApi, log: MemoryLog) -> None:
    api.server.apply_pod("a")
    past = api.server.version
    async with ingesting(api, log) as rig:
        api.server.apply_pod("b")
        await agrees(log, api.server)
        api.server.stale_list_at = past
        rig.runners["Pod"].relist(confirming=False)
        await eventually(lambda: rig.writer.counts.doubts, within=5.0, what="the list is doubted")
        await agrees(log, api.server)
    assert [event.operation for event in await history(log)] == ["applied", "applied"]


async def test_08_events_that_were_never_told_are_found_by_the_next_list(api: FaultyApi, log: MemoryLog) -> None:
    chance = random.Random(8)  # noqa: S311 (a test's)
    async with ingesting(api, log) as rig:
        api.drop_every = 3
        api.server.hang_up()
        for _ in range(60):
            name = f"p{chance.randrange(10)}"
            if chance.random() < 0.3:
                api.server.delete("Pod", "shop", name)
            else:
                api.server.apply_pod(name, ip=f"10.0.0.{chance.randrange(200)}")
        api.drop_every = 0
        rig.runners["Pod"].relist(confirming=False)
        await agrees(log, api.server)


async def test_09_stopped_at_any_step_it_converges_and_repeats_nothing(log: MemoryLog) -> None:
    server = ScriptedServer()
    for steps in range(60):
        async with Rig(server, log, name=f"r{steps}"):
            server.apply_pod(f"p{steps % 7}", ip=f"10.0.1.{steps}")
            if steps % 5 == 4:
                server.delete("Pod", "shop", f"p{(steps - 2) % 7}")
            for _ in range(steps):
                await asyncio.sleep(0)
    async with Rig(server, log, name="last"):
        await agrees(log, server)
    seen = [(event.uid, event.resource_version, event.operation) for event in await history(log)]
    assert len(seen) == len(set(seen))


async def test_10_two_that_both_believe_to_lead_write_each_change_once(api: FaultyApi, log: MemoryLog) -> None:
    async with ingesting(api, log, name="a"), ingesting(api, log, name="b"):
        for number in range(40):
            api.server.apply_pod(f"p{number % 9}", ip=f"10.0.3.{number}")
            await asyncio.sleep(0)
        await agrees(log, api.server)
    seen = [(event.uid, event.resource_version) for event in await history(log)]
    assert len(seen) == len(set(seen)) == 40


async def test_11_an_object_that_was_made_anew_is_a_deletion_and_a_creation(api: FaultyApi, log: MemoryLog) -> None:
    api.server.apply_pod("a")
    async with ingesting(api, log):
        api.server.silent = True
        api.server.delete("Pod", "shop", "a")
        api.server.apply_pod("a", uid="another")
        api.server.compact()
        api.server.silent = False
        await agrees(log, api.server)
    told = [(event.operation, event.uid) for event in await history(log)]
    assert told[-2:] == [("deleted", told[0][1]), ("applied", "another")]


@pytest.mark.parametrize(
    "line",
    [
        b'{"type":"BOOKMARK"}',
        b'{"type":"BOOKMARK","object":{"metadata":{}}}',
        b'{"type":"PARTY","object":{"metadata":{"name":"a"}}}',
        b'{"type":"ERROR","object":{}}',
        b'{"type":"ERROR"}',
        b"[]",
        b"\xff\xfe",
    ],
)
async def test_12_a_line_that_makes_no_sense_costs_nothing(api: FaultyApi, log: MemoryLog, line: bytes) -> None:
    api.server.apply_pod("a")
    async with ingesting(api, log):
        api.server.say("Pod", line)
        api.server.apply_pod("b")
        await agrees(log, api.server)


async def test_13_a_line_of_megabytes_in_pieces_that_cut_characters_is_read(api: FaultyApi, log: MemoryLog) -> None:
    async with ingesting(api, log):
        api.piece = 65_537
        api.server.apply_pod("huge", annotations={"note": "ü" * 1_200_000})
        api.server.apply_pod("after")
        await agrees(log, api.server)
        assert all(len(body) < 2_000 for _, body in (await state(log)).values())


async def test_14_a_token_that_was_replaced_is_read_again(api: FaultyApi, log: MemoryLog) -> None:
    async with ingesting(api, log) as rig:
        api.token = "second"
        api.server.hang_up()
        await eventually(lambda: rig.runners["Pod"].reflector.failing, within=5.0, what="the old one is refused")
        api.server.apply_pod("a")
        api.write_kubeconfig()
        await agrees(log, api.server)


async def test_15_a_kind_appears_moves_to_another_version_and_goes_without_a_restart(
    api: FaultyApi, log: MemoryLog
) -> None:
    api.server.absent.add("TrafficSplit")
    async with ingesting(api, log):
        api.server.apply("TrafficSplit", SPLIT)
        api.server.absent.clear()

        async def version() -> str:
            split = [event for event in await history(log) if event.kind == "TrafficSplit"]
            return split[-1].api_version if split and split[-1].operation == "applied" else ""

        async def is_version(wanted: str) -> None:
            async def probe() -> bool:
                return (await version()).endswith(wanted)

            await eventually(probe, within=5.0, what=f"it is read as {wanted}")

        await is_version("v1alpha2")
        api.split_version = "v1alpha4"
        api.server.apply("TrafficSplit", SPLIT)
        api.server.hang_up()
        api.server.apply_pod("a")
        await eventually(lambda: any("v1alpha4" in what for *_, what in api.requests), within=5.0, what="it is found")
        api.server.delete("TrafficSplit", "shop", "s")
        api.server.absent.add("TrafficSplit")
        api.server.hang_up()
        await agrees(log, api.server)


async def test_25_pods_that_flap_while_the_log_is_away_fill_a_bounded_queue_only(
    api: FaultyApi, log: MemoryLog
) -> None:
    async with ingesting(api, log, queue=20) as rig:
        log.down()
        for number in range(400):
            api.server.apply_pod(f"p{number % 10}", ip=f"10.1.0.{number % 250}")
        await eventually(lambda: rig.writer.trouble, within=5.0, what="the outage shows")
        await asyncio.sleep(0.05)
        received = rig.writer.counts.received
        log.up()
        await agrees(log, api.server)
        assert received < 100, "the others wait at the server, not in memory"


async def test_26_a_list_without_most_objects_deletes_them_only_when_confirmed(api: FaultyApi, log: MemoryLog) -> None:
    for number in range(20):
        api.server.apply_pod(f"p{number}")
    async with ingesting(api, log) as rig:
        version = str(api.server.version)
        api.answers = [nothing(version, streams=api.streams)]
        rig.runners["Pod"].relist(confirming=False)
        await eventually(lambda: rig.writer.counts.doubts, within=5.0, what="a list of nothing is doubted")
        api.server.apply_pod("p20")
        await agrees(log, api.server)
        assert len(await history(log)) == 21
        for number in range(20):
            api.server.delete("Pod", "shop", f"p{number}")
        api.server.compact()
        await agrees(log, api.server, "a list that is confirmed rules")


async def test_27_a_clock_that_jumps_changes_nothing(
    api: FaultyApi, log: MemoryLog, monkeypatch: pytest.MonkeyPatch
) -> None:
    real, jumps = time.time, itertools.cycle([0.0, 600.0, -600.0])
    monkeypatch.setattr(time, "time", lambda: real() + next(jumps))
    async with ingesting(api, log):
        for number in range(30):
            api.server.apply_pod("a", ip=f"10.0.0.{number}")
        await agrees(log, api.server)
    addresses = [
        bytes(event.object or b"").partition(b'"podIP":"')[2].partition(b'"')[0] for event in await history(log)
    ]
    assert addresses == [f"10.0.0.{number}".encode() for number in range(30)][-len(addresses) :]


async def test_a_forbidden_list_deletes_nothing(api: FaultyApi, log: MemoryLog) -> None:
    api.server.apply_pod("a")
    async with ingesting(api, log) as rig:
        tip = await log.bounds()
        api.answers = [refusal(403) for _ in range(4)]
        rig.runners["Pod"].relist(confirming=False)
        await eventually(lambda: not api.answers, within=5.0, what="it was refused")
        assert await log.bounds() == tip
        api.server.failures.append(Failure("http 500", status=500))
        api.server.apply_pod("b")
        await agrees(log, api.server)
