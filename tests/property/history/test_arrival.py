"""Whatever the ingestor, the compiler, the log and the edges do, no verb says that a change arrived that has not.

A cluster changes at random. Its ingestor writes some of that, late, or says all of it anew in another epoch; its
compiler publishes at times, starts anew, writes keyframes; the log forgets; proxies take what is newest, refuse, leave,
come back, and their edges report late. What the verbs read to prove an arrival (`Recorder`, `arrived`) is asked in
between, and whenever it says "complete" each proxy that the change concerns is looked at itself.
"""

from __future__ import annotations

import asyncio
import contextlib
import random
from typing import cast

import msgspec
import pytest

from cli.arrival.recorded import Recorder
from cli.arrival.wait import arrived
from cli.history.log_source import LogSource
from cli.history.timeline import Timeline
from cli.kubernetes.api_client import Api, AppliedObject, Manifest
from services.compiler.core.compiler import Compiler
from services.compiler.core.offline import compile_events
from services.compiler.log.snapshot_store import SnapshotStore
from services.compiler.mesh_state import MeshSettings
from shared.eventlog.protocol import EMPTY, Draft
from shared.records import events
from shared.records.events import APPLIED, DELETED, Event, ObjectKey
from shared.records.proxy_status import NackedResource, ProxyStatus, TypeStatus, encode_status
from shared.records.snapshot import TYPE_URLS, Snapshot
from shared.streams.memory import MemoryLogs
from tests.property.history.worlds import STREAMS, source_of
from tests.simulation.arrival import LivingApi
from tests.simulation.clock import SimulatedLoop
from tests.simulation.cluster import API_VERSIONS, Cluster, Key
from tests.unit.compiler.objects import CLUSTER

SCOPE = STREAMS.cluster_scope(CLUSTER)
State = dict[ObjectKey, Event]
LONG = 2.0
"""Seconds of the simulated clock for which a verb waits for what may never come; longer than its own patience."""

STEPS = (
    *("change", "change", "change", "ingest one", "ingest", "compile", "take", "take all", "settle", "refuse", "leave"),
    *("come", "report late", "keyframe", "new epoch", "restart compiler", "forget commits", *["ask"] * 6),
)


class HeldProxy:
    """One Envoy: what it truly holds, whatever is said of it."""

    def __init__(self, uid: str) -> None:
        self.uid = uid
        self.version = 0
        self.view: object = None
        self.connected = False
        self.said = True
        """Whether its edge has reported the newest."""


class World:
    """A mesh of which every part does as it likes."""

    def __init__(self, chance: random.Random) -> None:
        self.chance = chance
        self.cluster = Cluster(chance)
        self.logs = MemoryLogs(STREAMS)
        self.written: State = {}
        self.states: list[tuple[int, State]] = [(0, {})]
        """After each batch: its last sequence, and what the log then says."""
        self.tip = EMPTY
        self.epochs = 0
        self.changed: list[Key] = [("Namespace", "", "red")]
        """The objects that changed last."""
        self.proxies: dict[str, HeldProxy] = {}
        self.compiler = Compiler(MeshSettings())
        self.folded = 0
        self.claims = 0

    async def open(self) -> None:
        self.log = await self.logs.open(STREAMS.events)
        self.status = await self.logs.open(STREAMS.status)
        self.commits, self.keyframes = await self.logs.open(STREAMS.snapshots), await self.logs.open(STREAMS.keyframes)
        self.snapshots = SnapshotStore(self.commits, self.keyframes, STREAMS)
        await self.snapshots.load()
        self.source: LogSource = await source_of(self.logs)
        await self.do("new epoch")
        await self.do("settle")

    # What happens

    async def do(self, step: str) -> None:
        match step:
            case "change":
                before = dict(self.cluster.living)
                self.cluster.step()
                after = self.cluster.living
                changed = sorted(key for key in {*before, *after} if before.get(key) != after.get(key))
                self.changed = [*self.changed, *changed][-4:]
            case "ingest one" | "ingest":
                drafted = self._missing()
                await self._write(drafted[:1] if step == "ingest one" else drafted, epoch="")
            case "new epoch":
                self.epochs += 1
                everything = list(self._truth().values())
                self.written = {}
                await self._write(everything, epoch=f"e{self.epochs:04d}")
            case "compile":
                await self._compile()
            case "settle":
                for each in ("ingest", "compile", "take all"):
                    await self.do(each)
            case "restart compiler":
                self.compiler, self.folded = Compiler(MeshSettings()), 0
            case "keyframe":
                if self.snapshots.published.version > self.snapshots.keyframe_version:
                    await self.snapshots.append_keyframe()
            case "forget commits":
                if self.snapshots.keyframe_version:
                    kept = await Timeline(self.source).place_after(self.snapshots.keyframe_version)
                    await self.commits.trim(before=kept)
            case "ask":
                await self._ask()
            case _:
                await self._of_a_proxy(step)

    def _truth(self) -> State:
        return {event.key: event for event in self.cluster.events()}

    def _missing(self) -> list[Event]:
        truth = self._truth()
        found = [one for key, one in truth.items() if key not in self.written or self.written[key].object != one.object]
        found += [
            msgspec.structs.replace(one, operation=DELETED, object=None)
            for key, one in self.written.items()
            if key not in truth
        ]
        return found

    async def _write(self, drafted: list[Event], *, epoch: str) -> None:
        if not drafted:
            return
        drafts = [Draft(event.subject(STREAMS), events.encode(event)) for event in drafted]
        self.tip = await self.log.append(drafts, scope=SCOPE, after=self.tip, epoch=epoch)
        for event in drafted:
            if event.operation == APPLIED:
                self.written[event.key] = event
            else:
                self.written.pop(event.key, None)
        self.states.append((self.tip.sequence, dict(self.written)))

    async def _compile(self) -> None:
        async for record in self.log.read(start=self.folded + 1, subjects=SCOPE):
            if record.epoch != self.compiler.epoch:
                self.compiler = Compiler(MeshSettings())
            self.compiler.fold(events.read(record), record.sequence, epoch=record.epoch)
            self.folded = record.sequence
        commit = self.compiler.commit(self.snapshots.published)
        if commit is not None:
            await self.snapshots.append(commit)
        self.compiler.accept()

    async def _of_a_proxy(self, step: str) -> None:
        published = self.snapshots.published
        for key, entry in published.proxies.items():
            if key not in self.proxies or self.proxies[key].uid != entry.uid:
                self.proxies[key] = HeldProxy(entry.uid)
        every = sorted(published.proxies)
        for key in every if step == "take all" else self.chance.sample(every, min(1, len(every))):
            await self._one_of_a_proxy(step, published, key, self.proxies[key])

    async def _one_of_a_proxy(self, step: str, published: Snapshot, key: str, proxy: HeldProxy) -> None:
        refused = step == "refuse" and proxy.connected
        if step in {"take", "take all", "report late"}:
            proxy.connected = True
            proxy.version, proxy.view = published.version, held(published, key)
            proxy.said = step != "report late"
        elif step in {"leave", "come"}:
            proxy.connected = step == "come"
        if proxy.said:
            await self._report(published, key, proxy, refused=refused)

    async def _report(self, published: Snapshot, key: str, proxy: HeldProxy, *, refused: bool) -> None:
        entry = published.proxies[key]
        refusal = NackedResource(version=published.version, resources={"x": "y"}, message="no") if refused else None
        own = TypeStatus(sent=published.version, acked=proxy.version, acked_at=10**18, refusal=refusal)
        status = ProxyStatus(
            cluster=entry.cluster, namespace=entry.namespace, pod=entry.pod, uid=entry.uid, since=1, edge="edge-1",
            service_account=entry.service_account, connected=proxy.connected, types=dict.fromkeys(TYPE_URLS, own),
        )  # fmt: skip
        subject = STREAMS.status_subject(entry.cluster, entry.namespace, entry.pod)
        await self.status.publish(Draft(subject, encode_status(status)))

    # What is claimed

    async def _ask(self) -> None:
        # Mostly the newest: that it arrived is what a person asks.
        kind, namespace, name = self.chance.choice([*self.changed, *self.changed[-1:] * 3])
        manifest: Manifest = {
            "apiVersion": API_VERSIONS.get(kind, "v1"), "kind": kind, "metadata": {"name": name, "namespace": namespace}
        }  # fmt: skip
        recorder = Recorder(
            cast("Api", LivingApi(self.cluster)), self.source.events, STREAMS, CLUSTER, "meshlog-system"
        )
        applied = AppliedObject(
            kind=kind, namespace=namespace, name=name, uid="", resource_version="", manifest=manifest
        )
        sequence = 0
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(LONG):
                sequence = await recorder.sequence([applied])
        if not sequence:
            return
        found = await arrived(self.source, sequence, within=LONG)
        if found is not None and found.complete:
            self.claims += 1
            self._look(sequence, ObjectKey(CLUSTER, kind, namespace, name))

    def _look(self, sequence: int, asked: ObjectKey) -> None:
        """The event is the object as the API keeps it, and every proxy concerned holds it, or what came of it later."""
        place = next(index for index, (last, _) in enumerate(self.states) if sequence <= last)
        kept, said = self._truth().get(asked), self.states[place][1].get(asked)
        assert (kept and kept.object) == (said and said.object), f"{asked} is not in the log as the API keeps it"
        before, after = compiled(self.states[place - 1][1]), compiled(self.states[place][1])
        for key in sorted(after.proxies):
            uid = after.proxies[key].uid
            wanted = held(after, key)
            concerned = key not in before.proxies or before.proxies[key].uid != uid or held(before, key) != wanted
            newest = compiled(self.written).proxies.get(key)
            if not concerned or newest is None or newest.uid != uid:
                continue
            proxy = self.proxies.get(key)
            true = proxy is not None and proxy.uid == uid and self._holds(proxy, key, place, sequence)
            assert true, f"{key} does not hold event {sequence}, and a verb says that it arrived"

    def _holds(self, proxy: HeldProxy, key: str, place: int, sequence: int) -> bool:
        if proxy.version >= sequence:
            return True
        return any(proxy.view == held(compiled(state), key) for _, state in self.states[place:])


def held(snapshot: Snapshot, key: str) -> object:
    """What a proxy is to hold."""
    entry = snapshot.proxies.get(key)
    return (
        None if entry is None else {kind: dict(names) for kind, names in snapshot.views[entry.workload_class].items()}
    )


def compiled(state: State) -> Snapshot:
    return compile_events(list(state.values()), MeshSettings())


def played(seed: int, steps: list[str]) -> World:
    """A world after these steps."""

    async def play() -> World:
        world = World(random.Random(seed))  # noqa: S311 (repeatable on purpose)
        await world.open()
        for step in steps:
            await world.do(step)
        return world

    loop = SimulatedLoop()
    try:
        return loop.run_until_complete(play())
    finally:
        loop.close()


@pytest.mark.parametrize("seed", range(10))
def test_no_verb_says_that_a_change_arrived_that_a_proxy_does_not_hold(seed: int) -> None:
    chance = random.Random(seed)  # noqa: S311
    world = played(seed, [chance.choice(STEPS) for _ in range(100)])
    assert world.claims, "or nothing was tested"


@pytest.mark.long
@pytest.mark.parametrize("seed", range(1000, 3000))
def test_nor_in_thousands_of_others(seed: int) -> None:
    chance = random.Random(seed)  # noqa: S311
    played(seed, [chance.choice(STEPS) for _ in range(150)])
