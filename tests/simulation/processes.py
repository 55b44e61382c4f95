"""The control plane's processes, each with a link of its own, that may be killed at any await and started again."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Coroutine
from typing import Any

from services.compiler.compiler import Compiler
from services.compiler.mesh import MeshSettings
from services.compiler.publication import Limits, Publication
from services.compiler.snapshots import Kept, Snapshots
from services.ingestor.reflector import Limits as ReflectorLimits
from services.ingestor.reflector import Reflector
from services.ingestor.retention import Retention
from services.ingestor.runner import Runner
from services.ingestor.standing import Compiled, newest_version
from services.ingestor.writer import Patience, Writer
from services.xds_edge.fleet import Fleet
from services.xds_edge.snapshots import SnapshotFollower
from shared.eventlog.epoch import new_epoch
from shared.eventlog.memory import MemoryLogs
from shared.eventlog.protocol import EMPTY, Checkpoint
from shared.lease import Lease
from shared.snapshot import Commit, decode_commit, encode_commit
from shared.subjects import Streams
from tests.simulation.cluster import KINDS, BadServer, Cluster
from tests.simulation.network import Link, LinkedLog
from tests.unit.compiler import objects

STREAMS = Streams()
SCOPE = STREAMS.cluster_scope(objects.CLUSTER)
_PATIENCE = Patience(gather=2.0, gather_epoch=10.0, retry=0.3, glance=4.0, scrub=15.0, stand_by=2.0)
_LIMITS = ReflectorLimits(backoff_base=0.2, backoff_cap=5.0)


class Process:
    """Something that runs, dies and comes back."""

    def __init__(self, name: str, logs: MemoryLogs, chance: random.Random, failures: list[str]) -> None:
        self.name = name
        self.logs = logs
        self.chance = chance
        self.failures = failures
        self.link = Link(chance)
        self.skew = chance.uniform(-300.0, 300.0)
        """Seconds by which this machine's clock is wrong."""
        self.lives = 0
        self._tasks: list[asyncio.Task[None]] = []

    @property
    def alive(self) -> bool:
        return bool(self._tasks)

    def start(self) -> None:
        """Begin anew, knowing nothing but what is on disk."""
        self.lives += 1
        self.link = Link(self.chance)
        self._tasks = [asyncio.get_running_loop().create_task(part) for part in self.parts()]
        for task in self._tasks:
            task.add_done_callback(self._ended)

    def kill(self) -> None:
        """As SIGKILL does: whatever it awaits now is the last thing that it did."""
        tasks, self._tasks = self._tasks, []
        self.link.change(dead=True)
        for task in tasks:
            task.cancel()

    def parts(self) -> list[Coroutine[Any, Any, None]]:
        raise NotImplementedError

    def log(self, stream: str) -> LinkedLog:
        return LinkedLog(self.logs.stream(stream), self.link)

    def lease(self, name: str) -> Lease:
        return Lease(
            self.log(STREAMS.leases),
            subject=STREAMS.lease_subject(name),
            instance=self.name,
            incarnation=f"{self.name}/{self.lives}",
        )

    def new_id(self) -> str:
        seconds = 1_800_000_000 + self.skew + asyncio.get_running_loop().time()
        return new_epoch(seconds, f"{self.chance.getrandbits(32):08x}")

    def _ended(self, task: asyncio.Task[None]) -> None:
        if not self._tasks or task.cancelled():
            return
        error = task.exception()
        self.failures.append(f"{self.name} ended: {error!r}")
        self.kill()
        asyncio.get_running_loop().call_later(1.0, self.start)


class IngestorProcess(Process):
    """`meshlog run ingestor`."""

    def __init__(self, *arguments: Any, cluster: Cluster) -> None:
        super().__init__(*arguments)
        self._cluster = cluster
        self.server = BadServer(cluster, self.link)
        self.writer: Writer | None = None
        self.runners: dict[str, Runner] = {}

    def parts(self) -> list[Coroutine[Any, Any, None]]:
        clock = asyncio.get_running_loop().time
        claim = self.lease("ingestor")
        commits, keyframes = self.log(STREAMS.snapshots), self.log(STREAMS.keyframes)
        log = self.log(STREAMS.events)
        server = self.server
        self.server = BadServer(self._cluster, self.link)
        self.server.fails, self.server.stale, self.server.away = server.fails, server.stale, server.away

        async def compiled() -> Compiled:
            return await newest_version(commits, keyframes, STREAMS)

        writer = self.writer = Writer(
            log,
            cluster=objects.CLUSTER,
            streams=STREAMS,
            kinds=[kind.name for kind in KINDS],
            clock=clock,
            new_id=self.new_id,
            new_traceparent=lambda: "",
            doubt=lambda kind, confirming: self.runners[kind].doubt(confirming=confirming),
            patience=_PATIENCE,
            leads=lambda: claim.held,
            warmed=claim.campaign,
            witness=compiled,
            retention=Retention(log, SCOPE, window=10.0, slack=60),
        )
        claim.changed = writer.wake
        self.runners = {
            kind.name: Runner(
                kind,
                Reflector(kind.name, jitter=self.chance.random, limits=_LIMITS),
                self.server,
                writer.put,
                clock=clock,
                silence=20.0,
            )
            for kind in KINDS
        }
        return [claim.run(), writer.run(), *(runner.run() for runner in self.runners.values())]


class CompilerProcess(Process):
    """`meshlog run compiler`."""

    publication: Publication | None = None
    compiler: type[Compiler] = Compiler
    """Or one with a mistake (`tests.simulation.mistakes`)."""

    def parts(self) -> list[Coroutine[Any, Any, None]]:
        claim = self.lease("compiler")

        def ready(_name: str, is_ready: bool, _why: str) -> None:  # noqa: FBT001
            if is_ready:
                claim.campaign()

        self.publication = Publication(
            self.log(STREAMS.events),
            Snapshots(self.log(STREAMS.snapshots), self.log(STREAMS.keyframes), STREAMS, epoch_id=self.new_id),
            scope=SCOPE,
            compiler=lambda: self.compiler(MeshSettings(), build="b1"),
            ready=ready,
            limits=Limits(commits=8, kept=Kept(seconds=10.0, keyframes=3), scrub=15.0),
            leads=lambda: claim.held,
        )
        claim.changed = self.publication.wake
        return [claim.run(), self.publication.run()]


class EdgeProcess(Process):
    """`meshlog run xds-edge`, but for gRPC and secrets; its disk survives it."""

    disk: tuple[Checkpoint, bytes] | None = None
    may_serve = False

    def parts(self) -> list[Coroutine[Any, Any, None]]:
        self.fleet = Fleet()
        self.may_serve = False
        checkpoint = EMPTY
        if self.disk is not None:
            checkpoint, payload = self.disk
            self.fleet.apply(decode_commit(payload))
        self.follower = SnapshotFollower(
            snapshots=self.log(STREAMS.snapshots),
            keyframes=self.log(STREAMS.keyframes),
            streams=STREAMS,
            fleet=self.fleet,
            applied=self._applied,
            caught_up=self._caught_up,
            checkpoint=checkpoint,
        )
        self._unsaved = asyncio.Event()
        return [self.follower.run(), self._confirm(), self._save()]

    def _applied(self, commit: Commit) -> None:
        del commit
        self._unsaved.set()

    def _caught_up(self) -> None:
        if not self.fleet.confirmed:
            self.fleet.confirmed = self.may_serve = True
            self.fleet.wake_all()

    async def _confirm(self) -> None:
        await asyncio.sleep(3.0)
        self.may_serve = self.may_serve or self.fleet.version > 0
        await asyncio.get_running_loop().create_future()

    async def _save(self) -> None:
        while True:
            await self._unsaved.wait()
            await asyncio.sleep(1.0)
            self._unsaved.clear()
            self.disk = self.follower.checkpoint, encode_commit(self.fleet.snapshot.keyframe())
