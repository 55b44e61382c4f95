"""The control plane's processes: killed at any await, frozen or stopped, and started again; each with its own link."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Coroutine
from typing import Any

from services.compiler.core.compiler import Compiler
from services.compiler.log.keyframe_writer import KeyframePolicy
from services.compiler.log.publisher import Publisher
from services.compiler.log.snapshot_store import HistoryRetention, SnapshotStore
from services.compiler.mesh_state import MeshSettings
from services.ingestor.core.reflector import Reflector, ReflectorLimits
from services.ingestor.kubernetes.reflector_runner import ReflectorRunner
from services.ingestor.log.compaction import Compactor
from services.ingestor.log.event_writer import EventWriter, WriterPolicy
from services.ingestor.log.round_appender import Identifiers
from services.ingestor.log.witness import CommitWitness
from services.xds_edge.proxy_status.reporter import StatusReporter
from services.xds_edge.sds.workload_secrets import WorkloadSecrets
from services.xds_edge.snapshot import disk_cache
from services.xds_edge.snapshot.disk_cache import LastGood
from services.xds_edge.snapshot.fleet import Fleet
from services.xds_edge.snapshot.snapshot_follower import SnapshotFollower
from shared.eventlog.epoch import new_epoch
from shared.eventlog.protocol import EMPTY
from shared.identity.spiffe import SpiffeId
from shared.identity.svid import IssuedSvid
from shared.records.snapshot import Commit
from shared.records.subjects import Streams
from shared.service.lease import Lease
from shared.timing.backoff import Backoff
from tests.simulation.cluster import KINDS, BadServer, Cluster
from tests.simulation.disk import FileDisk
from tests.simulation.ledger import RecordedLogs
from tests.simulation.life import Life
from tests.simulation.network import Link, LinkedLog
from tests.simulation.witness import Witness
from tests.unit.compiler import objects

STREAMS = Streams()
SCOPE = STREAMS.cluster_scope(objects.CLUSTER)
PATIENCE = WriterPolicy(gather=2.0, gather_epoch=10.0, retry=0.3, glance=4.0, scrub=15.0, stand_by=2.0)
_LIMITS = ReflectorLimits(retry=Backoff(0.2, 5.0, jitter=(0.5, 1.5)))


async def _no_certificate(_token: str, spiffe_id: SpiffeId) -> IssuedSvid:
    raise AssertionError(f"no simulated proxy asks for the certificate of {spiffe_id}")


class Process:
    """Something that runs, dies and comes back."""

    def __init__(self, name: str, logs: RecordedLogs, chance: random.Random, failures: list[str]) -> None:
        self.name = name
        self.logs = logs
        self.chance = chance
        self.failures = failures
        self.life = Life(self.kill)
        self.link = Link(chance, self.life)
        self.skew = chance.uniform(-300.0, 300.0)
        """Seconds by which this machine's clock is wrong."""
        self.stood_still = 0.0
        """Seconds for which its steady clock has stood still, as that of a suspended machine does."""
        self.lives = 0
        self.stopping = False
        """Whether it was asked to stop."""
        self._retired = False
        self._steps = 0
        self.crashes_early = 0
        """At which await its next life ends; 0: not before something ends it."""
        self._tasks: list[asyncio.Task[None]] = []

    @property
    def alive(self) -> bool:
        return bool(self._tasks)

    @property
    def awaits(self) -> int:
        """Awaits that it came back from, in all of its lives."""
        return self._steps + self.life.steps

    def start(self) -> None:
        """Begin anew, knowing nothing but what is on disk."""
        if self._retired:
            return
        self.lives += 1
        self._steps += self.life.steps
        self.life = Life(self.kill)
        self.stopping = False
        self.life.fuse, self.crashes_early = self.crashes_early, 0
        self.link = Link(self.chance, self.life)
        for part in self.parts():
            self._spawn(part)

    def kill(self) -> None:
        """As SIGKILL does: whatever it awaits now is the last thing that it did."""
        self._tasks = []
        self.life.end()
        self.link.stir()

    def stop(self) -> None:
        """As SIGTERM does: it gives back what it has, and ends."""
        self.stopping = True

        async def leave() -> None:
            await self.leave()
            if self.life is life:
                self.kill()

        life = self.life
        self._spawn(leave())

    def retire(self) -> None:
        """All is over: it ends, and does not come back."""
        self._retired = True
        self.kill()

    def parts(self) -> list[Coroutine[Any, Any, None]]:
        raise NotImplementedError

    async def leave(self) -> None:
        """Stop gracefully."""
        raise NotImplementedError

    def clock(self) -> float:
        """Its steady clock."""
        return asyncio.get_running_loop().time() - self.stood_still

    def nanoseconds(self) -> int:
        """Its clock, nanoseconds since 1970."""
        return int((1_800_000_000 + self.skew + asyncio.get_running_loop().time()) * 1e9)

    def log(self, stream: str) -> LinkedLog:
        return LinkedLog(self.logs.stream(stream), self.link)

    def lease(self, name: str) -> Lease:
        return Lease(
            self.log(STREAMS.leases),
            subject=STREAMS.lease_subject(name),
            instance=self.name,
            clock=self.clock,
            incarnation=f"{self.name}/{self.lives}",
        )

    def new_id(self) -> str:
        seconds = 1_800_000_000 + self.skew + asyncio.get_running_loop().time()
        return new_epoch(seconds, f"{self.chance.getrandbits(32):08x}")

    def _spawn(self, part: Coroutine[Any, Any, None]) -> None:
        task = self.life.spawn(part)
        task.add_done_callback(self._ended)
        self._tasks.append(task)

    def _ended(self, task: asyncio.Task[None]) -> None:
        if task not in self._tasks or task.cancelled():
            return
        if self.stopping and task.exception() is None:
            return
        self.failures.append(f"{self.name} ended: {task.exception()!r}")
        self.kill()
        asyncio.get_running_loop().call_later(1.0, lambda: self.alive or self.start())


class IngestorProcess(Process):
    """`meshlog run ingestor`."""

    def __init__(self, *arguments: Any, cluster: Cluster) -> None:
        super().__init__(*arguments)
        self._cluster = cluster
        self.server = BadServer(cluster, self.link)
        self.writer: EventWriter | None = None
        self.patience = PATIENCE
        self.runners: dict[str, ReflectorRunner] = {}

    def parts(self) -> list[Coroutine[Any, Any, None]]:
        clock = self.clock
        claim = self.claim = self.lease("ingestor")
        commits, keyframes = self.log(STREAMS.snapshots), self.log(STREAMS.keyframes)
        log = self.log(STREAMS.events)
        self.server = self.server.again(self.link)

        writer = self.writer = EventWriter(
            log,
            cluster=objects.CLUSTER,
            streams=STREAMS,
            kinds=[kind.name for kind in KINDS],
            clock=clock,
            ids=Identifiers(new_epoch=self.new_id, new_traceparent=lambda: ""),
            reflectors=self,
            policy=self.patience,
            leadership=claim,
            witness=CommitWitness(commits, keyframes, STREAMS),
            compactor=Compactor(log, SCOPE, window=10.0, slack=30),
        )
        claim.changed = writer.wake
        self.runners = {
            kind.name: ReflectorRunner(
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

    def relist(self, kind: str, *, confirming: bool) -> None:
        """See `Reflectors`."""
        self.runners[kind].relist(confirming=confirming)

    async def leave(self) -> None:
        await self.claim.release()

    def server_is(self, how: str) -> None:
        """Its way to the API server, or the server, is bad in one way."""
        self.server.mend()
        self.server.fails, self.server.stale = 0.3 * (how == "fails"), 0.5 * (how == "stale")
        self.server.away, self.server.mute, self.server.deaf = how == "away", how == "mute", how == "deaf"

    def server_mends(self) -> None:
        """It is as it should be, also for a later life."""
        self.server.mend()


class CompilerProcess(Process):
    """`meshlog run compiler`."""

    publication: Publisher | None = None
    compiler: type[Compiler] = Compiler
    """Or one with a mistake (`tests.simulation.mistakes`)."""

    def parts(self) -> list[Coroutine[Any, Any, None]]:
        claim = self.claim = self.lease("compiler")

        def ready(_name: str, is_ready: bool, _why: str) -> None:  # noqa: FBT001
            if is_ready:
                claim.campaign()

        self.publication = Publisher(
            self.log(STREAMS.events),
            SnapshotStore(self.log(STREAMS.snapshots), self.log(STREAMS.keyframes), STREAMS, epoch_id=self.new_id),
            scope=SCOPE,
            compiler=lambda: self.compiler(MeshSettings(), build="b1"),
            ready=ready,
            limits=KeyframePolicy(commits=8, kept=HistoryRetention(seconds=10.0, keyframes=3), scrub=15.0),
            leads=lambda: claim.held,
        )
        claim.changed = self.publication.wake
        return [claim.run(), self.publication.run()]

    async def leave(self) -> None:
        await self.claim.release()


class EdgeProcess(Process):
    """`meshlog run xds-edge`, but for gRPC and secrets; its disk survives it."""

    may_serve = False

    def __init__(self, *arguments: Any, witness: Witness) -> None:
        super().__init__(*arguments)
        self.disk = FileDisk(self.chance)
        self.secrets = WorkloadSecrets(_no_certificate)
        self._witness = witness

    def parts(self) -> list[Coroutine[Any, Any, None]]:
        self.fleet = Fleet()
        self.may_serve = False
        self._witness.begins(self)
        content, checkpoint = self.disk.read(), EMPTY
        state = disk_cache.decode(content) if content is not None else None
        if state is not None and state.keyframe is not None:
            self.fleet.apply(state.keyframe)
            checkpoint = state.checkpoint
            self._witness.applied(self)
        self.follower = SnapshotFollower(
            snapshots=self.log(STREAMS.snapshots),
            keyframes=self.log(STREAMS.keyframes),
            streams=STREAMS,
            fleet=self.fleet,
            applied=self._applied,
            caught_up=self._caught_up,
            lost=self._log_lost,
            checkpoint=checkpoint,
        )
        self._unsaved = asyncio.Event()
        self.reporter = StatusReporter(streams=STREAMS, edge=f"{self.name}/{self.lives}")
        reporting = self.reporter.run(self.log(STREAMS.status))
        return [self.follower.run(), self._confirm(), self._save_changes(), reporting]

    async def leave(self) -> None:
        await self._save()

    def _applied(self, commit: Commit) -> None:
        del commit
        self._witness.applied(self)
        self._unsaved.set()

    def _caught_up(self) -> None:
        if not self.fleet.confirmed:
            self.fleet.confirmed = self.may_serve = True
            self.fleet.wake_all()

    def _log_lost(self) -> None:
        self.fleet.confirmed = False

    async def _confirm(self) -> None:
        read = self.fleet.version
        await asyncio.sleep(3.0)
        self.may_serve = self.may_serve or self.fleet.version > 0
        if read and not self.may_serve:
            self.failures.append(f"P7: {self.name} has version {read} from its disk and does not serve it")
        await asyncio.get_running_loop().create_future()

    async def _save_changes(self) -> None:
        while True:
            await self._unsaved.wait()
            await asyncio.sleep(1.0)
            self._unsaved.clear()
            await self._save()

    async def _save(self) -> None:
        if not self.fleet.version:
            return
        keyframe = self.fleet.snapshot.keyframe()
        state = LastGood(format=disk_cache.FORMAT, checkpoint=self.follower.checkpoint, keyframe=keyframe)
        await self.disk.write(disk_cache.encode(state))
