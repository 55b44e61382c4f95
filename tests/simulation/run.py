"""One run: faults and changes for a while, then peace, then every promise that can be checked.

While it runs: P3 and P4 on every edge and proxy, P7 at every start of an edge, and at every commit and status that no
verb reports a version as arrived which a proxy concerned does not hold (P10, P13). When everything rests: the log holds
what the cluster is (P1) under a whole chain (P11), nothing twice; the published snapshot, every edge and every proxy
hold what a compile from scratch gives (P2, P4), and the statuses show it (P10); the past can be rebuilt (P12).
Afterwards, of all that ever was: each commit against a compile from scratch of the events up to it (P2, P6), each
snapshot that an edge served and each state in which a proxy rested against the commit of that version (P2, P4), nothing
sent that was held already (P5), and no epoch that no loss called for (P11). P8 and P9 need TLS and tokens: not here.
"""

from __future__ import annotations

import asyncio
import gc
import logging
import random
from collections.abc import Callable
from typing import Any, cast

import msgspec

from services.ingestor.core import records
from services.xds_edge.snapshot import snapshot_follower as following
from shared.records import withheld
from shared.records.snapshot import proxy_key
from tests.simulation import checks
from tests.simulation.arrival import Arrivals, Person
from tests.simulation.clock import SimulatedLoop
from tests.simulation.cluster import MOST_BYTES, Cluster
from tests.simulation.faults import Faults
from tests.simulation.ledger import Ledger, RecordedLogs
from tests.simulation.life import task_factory
from tests.simulation.mistakes import patched, planted
from tests.simulation.processes import STREAMS, CompilerProcess, EdgeProcess, IngestorProcess, Process
from tests.simulation.proxies import GLANCE, SimulatedProxy
from tests.simulation.witness import Witness
from tests.unit.compiler import objects

TROUBLE = 40.0
"""Simulated seconds of faults."""
PEACE = 60.0
"""Simulated seconds in which everything must have come to rest."""


SMALL = 5
"""Records of an atomic batch, where batches are small."""


class Outcome(msgspec.Struct):
    """What a run showed."""

    seed: int
    broken: list[str] = []
    """Promises that did not hold; empty: all did."""
    faults: list[str] = []
    """The schedule, in order."""
    kinds: dict[str, int] = {}
    """Faults by kind."""
    settled: float = 0.0
    """Simulated seconds from the end of the faults until everything agreed."""
    changes: int = 0
    epochs: int = 0
    compared: int = 0
    """Published commits that were compared with a compile from scratch of the events up to them."""
    claims: int = 0
    """How often a verb reported the arrival of a version that concerns a proxy."""
    resent: int = 0
    awaits: int = 0
    """Awaits that processes came back from: the moments at which a crash may be drawn."""


class Simulation:
    """The world of one seed."""

    def __init__(self, outcome: Outcome, say: Callable[[str], None]) -> None:
        self.chance = random.Random(outcome.seed)  # noqa: S311 (repeatable on purpose)
        self.outcome = outcome
        self._say = say
        self.cluster = Cluster(self.chance)
        loop = asyncio.get_running_loop()
        self.ledger = Ledger(STREAMS)
        self.logs = RecordedLogs(
            STREAMS, self.ledger, clock=lambda: int(loop.time() * 1e9) + self.faults.drift, chance=self.chance
        )
        self.witness = Witness()
        failures = self.outcome.broken
        common = (self.logs, self.chance, failures)
        self.ingestors = [IngestorProcess(f"ingestor-{n}", *common, cluster=self.cluster) for n in (1, 2)]
        self.compilers = [CompilerProcess(f"compiler-{n}", *common) for n in (1, 2)]
        self.edges = [EdgeProcess(f"edge-{n}", *common, witness=self.witness) for n in (1, 2)]
        self.proxies: dict[tuple[str, str], SimulatedProxy] = {}
        self.arrivals = Arrivals(self.logs, self.proxies)
        # A chance of its own: what a person asks changes nothing of what is drawn.
        asking = random.Random(f"questions of {outcome.seed}")  # noqa: S311 (repeatable on purpose)
        self.person = Person(self.logs, self.cluster, self.arrivals, asking, self._tell)
        self.complaints: list[str] = []
        self.went_back: list[str] = []
        self.faults = Faults(
            self.chance,
            self._fault,
            logs=self.logs,
            streams=STREAMS,
            cluster=self.cluster,
            processes=self.processes,
            proxies=self.proxies,
        )
        self.small = self.chance.random() < 0.3
        """Whether a batch takes so few records that an epoch needs many, and may end incomplete."""
        if not self.faults.loses and self.chance.random() < 0.5:
            # Without the periodic read of the whole log: the mesh has to recover without it.
            for ingestor in self.ingestors:
                ingestor.patience = msgspec.structs.replace(ingestor.patience, scrub=600.0)

    @property
    def processes(self) -> list[Process]:
        return [*self.ingestors, *self.compilers, *self.edges]

    async def run(self) -> None:
        """All of it."""
        loop = asyncio.get_running_loop()
        for process in self.processes:
            process.start()
        asking = loop.create_task(self.person.ask_for_ever())
        while loop.time() < TROUBLE:
            await asyncio.sleep(self.chance.expovariate(2.0))
            if self.chance.random() < 0.6:
                self._change()
            else:
                self.faults.one()
            self._keep_proxies()
        self._tell("PEACE")
        self.faults.heal()
        self._change()
        await self._settle()
        self._dismiss(asking)
        for process in self.processes:
            process.retire()
        for proxy in self.proxies.values():
            self._retire(proxy)
        self.outcome.awaits = sum(process.awaits for process in self.processes)
        await self._judge()

    # What happens

    def _change(self) -> None:
        self.outcome.changes += 1
        what = self.cluster.step()
        self._tell(what)

    def _tell(self, what: str) -> None:
        self._say(f"{asyncio.get_running_loop().time():8.3f}  {what}")

    def _fault(self, kind: str, what: str) -> None:
        self.outcome.faults.append(what)
        self.outcome.kinds[kind] = self.outcome.kinds.get(kind, 0) + 1
        self._tell(f"FAULT {what}")

    def _keep_proxies(self) -> None:
        """A proxy for each pod that lives; a proxy ends with its pod."""
        wanted = {
            (proxy_key(objects.CLUSTER, namespace, name), value["metadata"]["uid"])
            for (kind, namespace, name), value in self.cluster.living.items()
            if kind == "Pod"
        }
        for identity in sorted(set(self.proxies) - wanted):
            self._retire(self.proxies.pop(identity))
        for identity in sorted(wanted - set(self.proxies)):
            self.proxies[identity] = SimulatedProxy(*identity, self.edges, self.chance, self.witness)

    def _retire(self, proxy: SimulatedProxy) -> None:
        proxy.task.cancel()
        self.complaints += proxy.complaints
        self.went_back += proxy.went_back
        self.outcome.resent += proxy.resent

    def _dismiss(self, asking: asyncio.Task[None]) -> None:
        if asking.done():
            self.outcome.broken.append(f"a person who asks what arrived is answered by {asking.exception()!r}")
        asking.cancel()

    # What must hold

    async def _settle(self) -> None:
        loop = asyncio.get_running_loop()
        self._keep_proxies()
        began, why = loop.time(), "never looked"
        while loop.time() < began + PEACE:
            await asyncio.sleep(0.25)
            for proxy in self.proxies.values():
                if proxy.task.done() and not proxy.task.cancelled():
                    self.outcome.broken.append(f"{proxy.key} ended: {proxy.task.exception()!r}")
                    return
            told = await checks.read_events(self.logs)
            why = await checks.disagreement(self.logs, self.cluster, self.edges, [*self.proxies.values()], told)
            if not why:
                self.outcome.settled = loop.time() - began
                self._tell(f"settled after {self.outcome.settled:.2f} s")
                await self._all_said(began + PEACE)
                return
        self.outcome.broken.append(f"not settled in {PEACE:.0f} s: {why}")

    async def _all_said(self, until: float) -> None:
        """Wait until the statuses show the state; unless the log lost statuses, which no edge repeats."""
        if self.outcome.kinds.get("lost statuses"):
            return
        while why := self.arrivals.unsaid():
            if asyncio.get_running_loop().time() >= until:
                self.outcome.broken.append(why)
                return
            await asyncio.sleep(0.25)

    async def _judge(self) -> None:
        """The checks at the end, except those of the ledger."""
        wrong = self.outcome.broken
        wrong += self.complaints
        wrong += self.witness.complaints
        wrong += self.arrivals.complaints
        self.outcome.claims = self.arrivals.claims
        told = await checks.read_events(self.logs)
        wrong += told.doubled
        self.outcome.epochs = self.ledger.epochs
        if self.outcome.resent:
            wrong.append(f"P5: {self.outcome.resent} resources were sent that were held")
        losses = self.outcome.kinds.get("data loss", 0)
        if not losses:
            wrong += self.went_back
        if self.ledger.epochs > 1 + losses:
            wrong.append(f"P11: {self.ledger.epochs} epochs, though the log lost data {losses} times")


async def _history(simulation: Simulation, compared: int) -> None:
    """Compare with what was published, so many commits with a compile from scratch (0: all)."""
    outcome, ledger = simulation.outcome, simulation.ledger
    # A chance of its own: how many are compared changes nothing of what happens.
    drawing = random.Random(outcome.seed)  # noqa: S311 (repeatable on purpose)
    outcome.compared, differing = ledger.differing(drawing, compared)
    outcome.broken += differing
    outcome.broken += simulation.witness.differing(ledger.published)
    if not simulation.faults.loses:
        outcome.broken += await checks.history(simulation.logs, ledger.published)


def simulate(
    seed: int, say: Callable[[str], None] = lambda _: None, *, compared: int = 0, mistake: str = ""
) -> Outcome:
    """Run one seed to its end, then compare so many of its commits, drawn, with a compile from scratch (0: all).

    With a `mistake` of `tests.simulation.mistakes` in the product, which is to be noticed.
    """
    logging.disable(logging.CRITICAL)

    outcome = Outcome(seed=seed)

    async def main() -> None:
        simulation = Simulation(outcome, say)
        small = [(records, "MAX_BATCH", SMALL)] if simulation.small else []
        with patched([(withheld, "MOST_BYTES", MOST_BYTES)]):
            with patched([(following, "TIP_CHECK", GLANCE), *small]):
                await simulation.run()
            await _history(simulation, compared)

    loop = SimulatedLoop()
    loop.set_task_factory(cast("Any", task_factory))
    unexpected: list[str] = []
    loop.set_exception_handler(lambda _, context: unexpected.append(str(context.get("exception") or context)))
    try:
        with planted(mistake):
            try:
                loop.run_until_complete(main())
            except Exception as error:  # noqa: BLE001 (such as a deadlock: it is the result of this run)
                outcome.broken.append(f"the run ended by {error!r}")
            tasks = asyncio.all_tasks(loop)
            for task in tasks:
                task.cancel()
            for _ in range(20):
                loop.run_until_complete(asyncio.sleep(0))
    finally:
        loop.close()
        # Compilers freeze what they hold, for good; here a thousand of them live and die in one process.
        gc.unfreeze()
        gc.collect()
    outcome.broken += unexpected
    return outcome
