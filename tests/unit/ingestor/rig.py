"""An ingestor's inside (runners and a writer) over a scripted server and a log in memory, quick in everything."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Awaitable, Callable
from types import TracebackType
from typing import Self

import msgspec

from services.ingestor.core.change_set_assembler import ChangeSetAssembler
from services.ingestor.core.kinds import WatchedKind
from services.ingestor.core.reflector import Reflector, ReflectorLimits
from services.ingestor.kubernetes.object_source import ObjectSource
from services.ingestor.kubernetes.reflector_runner import ReflectorRunner
from services.ingestor.log.event_writer import EventWriter, WriterPolicy
from services.ingestor.log.round_appender import Identifiers
from services.ingestor.log.witness import CompiledPosition, NoWitness, Witness
from shared.eventlog.chain import ChainVerifier
from shared.eventlog.protocol import EventLog
from shared.records import events
from shared.records.subjects import Streams
from shared.timing.backoff import Backoff

STREAMS = Streams()
POD = WatchedKind("Pod", "", "pods", "v1")
SPLIT = WatchedKind("TrafficSplit", "split.smi-spec.io", "trafficsplits")
LIMITS = ReflectorLimits(
    retry=Backoff(0.001, 0.01, jitter=(0.5, 1.5)),
    absent=Backoff(0.002, 0.01, jitter=(0.8, 1.2)),
    absent_confirmed=0.05,
    lasting=0.02,
)
PATIENCE = WriterPolicy(gather=0.5, gather_epoch=0.5, retry=0.005, glance=60.0, scrub=60.0, stand_by=0.02, warming=0.02)


class Compiled(NoWitness):
    """A witness that knows what was compiled by a function of the test."""

    def __init__(self, compiled: Callable[[], Awaitable[CompiledPosition]]) -> None:
        self._compiled = compiled

    async def compiled(self) -> CompiledPosition:
        """See `Witness`."""
        return await self._compiled()


class Rig:
    """One ingestor; `async with` runs it."""

    def __init__(
        self,
        source: ObjectSource,
        log: EventLog,
        *,
        kinds: tuple[WatchedKind, ...] = (POD, SPLIT),
        name: str = "a",
        silence: float = 5.0,
        patience: WriterPolicy = PATIENCE,
        sets: float = 0.1,
        queue: int = 1000,
        cluster: str = "c1",
        leads: bool = True,
        witness: Witness | None = None,
        new_id: Callable[[], str] | None = None,
        warmed: Callable[[], None] = lambda: None,
        unfit: Callable[[], None] = lambda: None,
    ) -> None:
        self.leads = leads
        self._warmed = warmed
        self._unfit = unfit
        clock = asyncio.get_running_loop().time
        ids = (f"{name}{number}" for number in itertools.count(1))
        self.writer = EventWriter(
            log,
            cluster=cluster,
            streams=STREAMS,
            kinds=[kind.name for kind in kinds],
            clock=clock,
            ids=Identifiers(
                new_epoch=new_id or (lambda: next(ids)),
                new_traceparent=lambda: "00-" + "1" * 32 + "-" + "2" * 16 + "-01",
            ),
            reflectors=self,
            policy=msgspec.structs.replace(patience, queue=queue),
            change_sets=ChangeSetAssembler(patience=sets),
            leadership=self,
            witness=witness,
        )
        self.runners = {
            kind.name: ReflectorRunner(
                kind,
                Reflector(kind.name, jitter=lambda: 0.5, limits=LIMITS),
                source,
                self.writer.put,
                clock=clock,
                silence=silence,
            )
            for kind in kinds
        }
        self._tasks: list[asyncio.Task[None]] = []

    @property
    def held(self) -> bool:
        """See `Leadership`."""
        return self.leads

    def campaign(self) -> None:
        """See `Leadership`."""
        self._warmed()

    def stand_aside(self) -> None:
        """See `Leadership`."""
        self._unfit()

    def relist(self, kind: str, *, confirming: bool) -> None:
        """See `Reflectors`."""
        self.runners[kind].relist(confirming=confirming)

    def take_over(self) -> None:
        """Lead from now on."""
        self.leads = True
        self.writer.wake()

    async def __aenter__(self) -> Self:
        parts = [self.writer.run(), *(runner.run() for runner in self.runners.values())]
        self._tasks = [asyncio.create_task(part) for part in parts]
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for task in self._tasks:
            task.cancel()
        results = await asyncio.gather(*self._tasks, return_exceptions=True)
        failures = [one for one in results if isinstance(one, Exception)]
        if failures and error is None:
            raise failures[0]


async def history(log: EventLog, cluster: str = "c1") -> list[events.Event]:
    """Every event of the newest epoch of a cluster, the chain checked on the way."""
    verifier, found = ChainVerifier(), list[events.Event]()
    async for record in log.read(subjects=STREAMS.cluster_scope(cluster)):
        if verifier.fold(record):
            found.clear()
        found.append(events.decode(record.payload))
    return found


async def state(log: EventLog) -> dict[str, tuple[str, str]]:
    """Returns the living objects of the log: object → (uid, body)."""
    living: dict[str, tuple[str, str]] = {}
    for event in await history(log):
        if event.operation == events.DELETED:
            del living[str(event.key)]
        else:
            assert event.object is not None
            living[str(event.key)] = (event.uid, bytes(event.object).decode())
    return living
