"""Exit codes that scripts rely on: 0 arrived, 1 refused, 124 not in time; whoever it concerns, and nobody else."""

from __future__ import annotations

import asyncio
import contextlib
import json
import time
from collections.abc import AsyncGenerator, Callable
from pathlib import Path
from typing import cast

import msgspec
import pytest

from cli.__main__ import main
from cli.arrival.log_tracker import tracked
from cli.arrival.wait import arrived, exit_code
from cli.history.log_source import LogSource
from cli.history.pin import pin_to
from cli.history.timeline import Timeline
from cli.kubernetes.api_client import Api, AppliedObject
from cli.state.mesh_status import proxy_states
from cli.state.service_lag import lags
from cli.verbs.embedded import apply
from shared.eventlog.memory import MemoryLog
from shared.eventlog.protocol import Draft, LogUnavailableError
from shared.records.events import SCHEMA, encode
from shared.records.pins import pin_of
from shared.records.proxy_status import NackedResource, ProxyStatus, TypeStatus, encode_status
from shared.records.snapshot import TYPE_URLS
from tests.property.history.test_pinning import pin_event
from tests.property.history.worlds import STREAMS, exported, recorded
from tests.unit.compiler import objects

History = list[list[objects.Event]]
TARGET = next(event for event in objects.bookstore() if event.kind == "TrafficTarget")


def changed() -> History:
    """The bookstore in one version, and a target that goes in the next."""
    return [objects.bookstore(), [objects.deleted(TARGET.kind, TARGET.namespace, TARGET.name)]]


async def tell(source: LogSource, of: Callable[[str, int], TypeStatus | None]) -> list[str]:
    """Each proxy says what `of` gives for its key and the newest version; the proxies."""
    timeline = Timeline(source)
    head = await timeline.head()
    snapshot = await timeline.snapshot(head)
    assert isinstance(source.status, MemoryLog)
    for key, proxy in snapshot.proxies.items():
        own = of(key, head)
        if own is None:
            continue
        status = ProxyStatus(
            cluster=proxy.cluster, namespace=proxy.namespace, pod=proxy.pod, uid=proxy.uid, since=1, edge="edge-1",
            service_account=proxy.service_account, connected=True, types=dict.fromkeys(TYPE_URLS, own),
        )  # fmt: skip
        subject = STREAMS.status_subject(proxy.cluster, proxy.namespace, proxy.pod)
        await source.status.publish(Draft(subject, encode_status(status)))
    return sorted(snapshot.proxies)


def acknowledges(_key: str, head: int) -> TypeStatus:
    return TypeStatus(sent=head, acked=head, acked_at=10**18)


def refuses(key: str, head: int) -> TypeStatus:
    if not key.endswith("buyer-0"):
        return acknowledges(key, head)
    return TypeStatus(
        sent=head, acked=1, refusal=NackedResource(version=head, resources={"x": "y"}, message="no such cluster 'x'")
    )


def is_slow(key: str, head: int) -> TypeStatus | None:
    return None if key.endswith("buyer-0") else acknowledges(key, head)


@pytest.mark.parametrize(("said", "code"), [(acknowledges, 0), (refuses, 1), (is_slow, 124)])
def test_rollout_ends_as_its_help_says(
    said: Callable[[str, int], TypeStatus | None],
    code: int,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    async def make() -> None:
        source = await recorded(changed())
        await tell(source, said)
        (await exported(source, tmp_path / "log")).close()

    asyncio.run(make())
    for extra in ([], ["--wait", "--timeout", "0.05"]):
        assert main(["rollout", "--last", "--log", str(tmp_path / "log"), "-o", "json", *extra]) == code
        told = json.loads(capsys.readouterr().out)
        assert told["complete"] == (code == 0)
        assert told["acknowledged"] == told["concerned"] - len(told["waiting"])
        assert [one["proxy"].partition("/")[0] for one in told["waiting"]] == (["buy"] if code else [])
        assert ("no such cluster 'x'" in str(told["refusals"])) == (code == 1)
    assert main(["rollout", "--last", "--log", str(tmp_path / "log")]) == code
    text = capsys.readouterr().out
    assert ("never connected" in text) == (code == 124)
    assert ("refusing" in text) == (code == 1)


async def test_an_event_has_arrived_when_those_whom_it_concerns_have_its_version() -> None:
    source = await recorded(changed())
    sequence = await Timeline(source).head()
    waiting = asyncio.create_task(arrived(source, sequence, within=5))
    await asyncio.sleep(0)
    assert not waiting.done()
    await tell(source, acknowledges)
    found = await waiting
    assert found is not None
    assert (found.complete, found.version, exit_code(found)) == (True, sequence, 0)
    assert 0 < found.concerned < len(await tell(source, acknowledges)) + 1


async def test_a_refusal_is_not_waited_out() -> None:
    source = await recorded(changed())
    await tell(source, refuses)
    found = await asyncio.wait_for(arrived(source, await Timeline(source).head(), within=60), 5)
    assert exit_code(found) == 1


async def test_who_is_slow_is_named_when_the_time_is_over() -> None:
    source = await recorded(changed())
    await tell(source, is_slow)
    found = await arrived(source, await Timeline(source).head(), within=0.1)
    assert found is not None
    assert [key.split("/")[1] for key in found.waiting] == ["buy"]
    assert exit_code(found) == 124


@pytest.mark.parametrize("keyframe_every", [1, 7])
async def test_a_proxy_is_waited_for_though_a_newer_keyframe_holds_the_version(keyframe_every: int) -> None:
    """After everything was killed the first that is published is whole: whom it concerns must not be "0 of 0"."""
    source = await recorded(changed(), keyframe_every=keyframe_every)
    await tell(source, is_slow)
    found = await arrived(source, await Timeline(source).head(), within=0.1)
    assert found is not None
    assert found.concerned
    assert [key.split("/")[1] for key in found.waiting] == ["buy"]
    assert exit_code(found) == 124


async def test_where_the_log_has_forgotten_whom_a_change_concerned_everybody_is_waited_for() -> None:
    source = await recorded(changed(), keyframe_every=1)
    everybody = await tell(source, is_slow)
    assert isinstance(source.snapshots, MemoryLog)
    _, last = await source.snapshots.bounds()
    await source.snapshots.trim(before=last)
    for sequence in (await Timeline(source).head(), 1):
        found = await arrived(source, sequence, within=0.1)
        assert found is not None
        assert found.concerned == len(everybody)
        assert exit_code(found) == 124


async def test_before_anything_is_published_nothing_has_arrived() -> None:
    source = await recorded([])
    assert await arrived(source, 1, within=0.1) is None


async def test_the_first_version_of_all_concerns_every_proxy_in_it() -> None:
    source = await recorded([objects.bookstore()])
    everybody = await tell(source, is_slow)
    found = await arrived(source, 1, within=0.1)
    assert found is not None
    assert found.concerned == len(everybody)
    assert not found.complete


async def test_what_changes_nothing_concerns_nobody_and_what_is_not_compiled_is_waited_for() -> None:
    """A rollback to the policy in force is in no version; an event that no compiler took is another matter."""
    source = await recorded([objects.bookstore()])
    await tell(source, acknowledges)
    sequence, _ = await pin_to(Timeline(source), await Timeline(source).head(), "to be sure")
    found = await arrived(source, sequence, within=10)
    assert found is not None
    assert (found.concerned, exit_code(found)) == (0, 0)
    pinned = no_policy_at_all()
    log = source.writable
    assert log is not None
    tip = await log.append([pinned], scope=source.scope, after=await log.tip(source.scope))
    assert exit_code(await arrived(source, tip.sequence, within=1.5)) == 124


async def test_the_lag_of_each_service_is_what_waits_for_it() -> None:
    """Events that change nothing are no lag of the compiler's; a slow proxy is its edge's; a request the CA's."""
    source = await recorded(changed())
    requests = MemoryLog()
    source = msgspec.structs.replace(source, requests=requests)
    await tell(source, acknowledges)
    assert [one.behind for one in await lags(source, await tracked(source))] == [0, 0, 0]
    source = msgspec.structs.replace(await recorded(changed()), requests=requests)
    await tell(source, refuses)
    await requests.publish(Draft("mesh.csrs.edge", b"csr"))
    log = source.writable
    assert log is not None
    for drafts, behind in (([nothing_new()], 0), ([no_policy_at_all()], 2)):
        await log.append(drafts, scope=source.scope, after=await log.tip(source.scope))
        found = {one.service: one for one in await lags(source, await tracked(source))}
        assert found["compiler"].behind == behind, found
        assert (found["edge-1"].behind, found["ca"].behind) == (1, 1)
        assert "1 behind, the last at version 1" in found["edge-1"].sentence


async def test_a_compiler_that_stands_before_an_event_of_a_newer_build_is_named_with_what_it_needs() -> None:
    source = await recorded(changed())
    log = source.writable
    assert log is not None
    head, (_, last) = (await tracked(source)).snapshot.version, await log.bounds()
    for schema in (SCHEMA + 1, SCHEMA):
        event = objects.event("TokenIssuer", "", "cluster", {"issuer": "x", "jwks": {}})
        draft = Draft(event.subject(STREAMS), encode(msgspec.structs.replace(event, schema=schema)))
        await log.append([draft], scope=source.scope, after=await log.tip(source.scope))
    found = {one.service: one for one in await lags(source, await tracked(source))}
    needs = f"needs a newer build: event {last + 1} has schema {SCHEMA + 1}, this build reads up to {SCHEMA}"
    assert found["compiler"].sentence == f"{needs}; version {head} is in force"
    assert found["compiler"].behind == last + 2 - head


async def test_a_proxy_that_is_behind_because_of_its_edge_says_why() -> None:
    source = await recorded(changed())
    await tell(source, refuses)
    tracker = await tracked(source)
    stuck = "needs a newer build: version 9 has format 2, this build reads up to 1; version 1 is served"
    for status in list(tracker.status.values()):
        types = {name: msgspec.structs.replace(one, refusal=None) for name, one in status.types.items()}
        tracker.take_status(msgspec.structs.replace(status, types=types, stuck=stuck))
    behind = [one for one in proxy_states(tracker) if one.state == "behind"]
    assert behind
    assert all(one.reason.endswith(f"; its edge {stuck}") for one in behind)


def nothing_new() -> Draft:
    """An object of a kind that configures nobody by itself."""
    event = objects.event("TokenIssuer", "", "cluster", {"issuer": "x", "jwks": {}})
    return Draft(event.subject(STREAMS), encode(event))


def no_policy_at_all() -> Draft:
    """An event that changes everything: no policy at all."""
    event = pin_event(pin_of(1, "nothing", []))
    return Draft(event.subject(STREAMS), encode(event))


@pytest.mark.parametrize(("said", "code"), [(acknowledges, 0), (refuses, 1), (is_slow, 124)])
async def test_apply_waits_for_its_own_change_and_ends_as_its_help_says(
    said: Callable[[str, int], TypeStatus | None],
    code: int,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """The API and the log are stood in for; what is waited for, said and returned is the command's own."""
    source = await recorded(changed())
    await tell(source, said)
    head = await Timeline(source).head()

    stand_in(monkeypatch, source, written=head)
    assert await wait(0.2) == code
    said_to_people = capsys.readouterr().out
    assert f"version {head}" in said_to_people
    assert ("all had acknowledged it before" in said_to_people) == (code == 0)
    assert ("refused by" in said_to_people) == (code == 1)
    assert ("not acknowledged within 0.2 s by buy/buyer-0" in said_to_people) == (code == 124)


async def test_apply_says_that_the_ingestor_may_be_down(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    stand_in(monkeypatch, await recorded(changed()), written=None)
    assert await wait(0.05) == 124
    assert "does the ingestor run" in capsys.readouterr().out


async def test_apply_names_what_is_left_out_and_ends_with_2(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    bad = objects.target("store", "bad", destination="store-v1", sources=[("buy", "buyer")], rules=[("X", "x", [])])
    source = await recorded([objects.bookstore(), [bad]])
    await tell(source, acknowledges)
    stand_in(monkeypatch, source, written=await Timeline(source).head())
    assert await wait(0.2, bad) == 2
    assert "left out: TrafficTarget store/bad: " in capsys.readouterr().out


async def test_apply_of_policy_says_that_the_mesh_is_pinned_and_ends_with_1(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    source = await recorded(changed())
    await tell(source, acknowledges)
    sequence, _ = await pin_to(Timeline(source), await Timeline(source).head(), "to be sure")
    stand_in(monkeypatch, source, written=sequence)
    assert await wait(2.0, TARGET) == 1
    assert "recorded only: the mesh is pinned to version" in capsys.readouterr().out


async def test_apply_says_that_the_log_cannot_be_read(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    source = await recorded(changed())

    @contextlib.asynccontextmanager
    async def opened(_where: str) -> AsyncGenerator[LogSource]:
        raise LogUnavailableError("log/unavailable", "nobody answers")
        yield source

    monkeypatch.setattr("cli.history.log_source.opened", opened)
    assert await wait(5) == 124
    assert "the log cannot be read now" in capsys.readouterr().out


def stand_in(monkeypatch: pytest.MonkeyPatch, source: LogSource, *, written: int | None) -> None:
    """The log is this one; what was applied is its event `written`, or (None) never gets there."""

    @contextlib.asynccontextmanager
    async def opened(_where: str) -> AsyncGenerator[LogSource]:
        yield source

    async def sequence(*_arguments: object) -> int:
        if written is None:
            await asyncio.Event().wait()
        return written or 0

    monkeypatch.setattr("cli.history.log_source.opened", opened)
    monkeypatch.setattr("cli.arrival.recorded.Recorder.sequence", sequence)
    monkeypatch.setattr("cli.embedded.lifecycle.CLUSTER", objects.CLUSTER)


async def wait(seconds: float, *events: objects.Event) -> int:
    """What the command does once the API has taken these objects."""
    applied = [
        AppliedObject(kind=one.kind, namespace=one.namespace, name=one.name, uid="", resource_version="", manifest={})
        for one in events
    ]
    return await apply.arrival(cast("Api", None), applied, time.time_ns(), time.monotonic() + seconds, seconds)
