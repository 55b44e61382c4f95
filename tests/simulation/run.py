"""One run: faults and changes for a while, then peace, then every promise that can be checked."""

from __future__ import annotations

import asyncio
import gc
import logging
import random
from collections.abc import Callable

import msgspec

from services.compiler.compiler import Compiler
from services.compiler.offline import compile_events
from services.compiler.snapshots import Snapshots
from shared import events
from shared.eventlog.chain import Verifier
from shared.snapshot import proxy_key
from tests.simulation.clock import NothingWillHappenError, SimulatedLoop
from tests.simulation.cluster import Cluster
from tests.simulation.ledger import Ledger, RecordedLogs, contents
from tests.simulation.processes import SCOPE, STREAMS, CompilerProcess, EdgeProcess, IngestorProcess, Process
from tests.simulation.proxies import SimulatedProxy
from tests.unit.compiler import objects

TROUBLE = 40.0
"""Simulated seconds of faults."""
PEACE = 120.0
"""Simulated seconds in which everything must have come to rest."""


class Outcome(msgspec.Struct):
    """What a run showed."""

    seed: int
    broken: list[str] = []
    """Promises that did not hold; empty: all did."""
    faults: list[str] = []
    """The schedule, in order."""
    settled: float = 0.0
    """Simulated seconds from the end of the faults until everything agreed."""
    changes: int = 0
    epochs: int = 0
    commits: int = 0
    compared: int = 0
    """Published commits that were compared with a compile from scratch of the events up to them."""
    resent: int = 0


class Simulation:
    """The world of one seed."""

    def __init__(self, seed: int, say: Callable[[str], None], compiler: type[Compiler] = Compiler) -> None:
        self.chance = random.Random(seed)  # noqa: S311 (repeatable on purpose)
        self.outcome = Outcome(seed=seed)
        self._say = say
        self._drift = 0
        self.cluster = Cluster(self.chance)
        loop = asyncio.get_running_loop()
        self.ledger = Ledger(STREAMS)
        self.logs = RecordedLogs(STREAMS, self.ledger, clock=lambda: int(loop.time() * 1e9) + self._drift)
        failures = self.outcome.broken
        common = (self.logs, self.chance, failures)
        self.ingestors = [IngestorProcess(f"ingestor-{n}", *common, cluster=self.cluster) for n in (1, 2)]
        self.compilers = [CompilerProcess(f"compiler-{n}", *common) for n in (1, 2)]
        for process in self.compilers:
            process.compiler = compiler
        self.edges = [EdgeProcess(f"edge-{n}", *common) for n in (1, 2)]
        self.proxies: dict[tuple[str, str], SimulatedProxy] = {}
        self.complaints: list[str] = []
        self._lossy = self.chance.random() < 0.4

    @property
    def processes(self) -> list[Process]:
        return [*self.ingestors, *self.compilers, *self.edges]

    async def run(self) -> Outcome:
        """All of it."""
        loop = asyncio.get_running_loop()
        for process in self.processes:
            process.start()
        while loop.time() < TROUBLE:
            await asyncio.sleep(self.chance.expovariate(2.0))
            if self.chance.random() < 0.6:
                self._change()
            else:
                self._break_something()
            self._keep_proxies()
        self._heal()
        self._change()
        await self._settle()
        for process in self.processes:
            process.kill()
        for proxy in self.proxies.values():
            self._retire(proxy)
        self.outcome.broken += self.complaints
        return self.outcome

    # What happens

    def _change(self) -> None:
        self.outcome.changes += 1
        what = self.cluster.step()
        self._tell(what)

    def _tell(self, what: str) -> None:
        self._say(f"{asyncio.get_running_loop().time():8.3f}  {what}")

    def _fault(self, what: str) -> None:
        self.outcome.faults.append(what)
        self._tell(f"FAULT {what}")

    def _later(self, seconds: float, action: Callable[[], object]) -> None:
        asyncio.get_running_loop().call_later(seconds, action)

    def _break_something(self) -> None:
        chance = self.chance
        process = chance.choice(self.processes)
        link = process.link
        seconds = chance.choice((0.3, 1.0, 3.0, 10.0))
        match chance.randrange(12):
            case 0 | 1 | 2:
                if process.alive:
                    self._fault(f"kill {process.name} for {seconds} s")
                    process.kill()
                    self._later(seconds, lambda: process.alive or process.start())
            case 3 | 4:
                self._fault(f"cut off {process.name} for {seconds} s")
                link.change(cut=True)
                self._later(seconds, lambda: link.change(cut=False))
            case 5:
                self._fault(f"slow {process.name}")
                link.slow = chance.choice((0.1, 1.0))
                self._later(seconds, lambda: setattr(link, "slow", 0.0))
            case 6:
                self._fault(f"losses of {process.name}")
                link.loses = 0.2
                self._later(seconds, lambda: setattr(link, "loses", 0.0))
            case 7:
                self._fault(f"no log for {seconds} s")
                for name in self._streams():
                    self.logs.stream(name).down()
                self._later(seconds, self._log_up)
            case 8:
                self._fault(f"the API server is bad for {seconds} s")
                self._worsen(seconds)
            case 9:
                self._fault("history is compacted")
                self.cluster.compacted = self.cluster.version
                self.cluster.history.clear()
            case 10:
                self._fault("leases are lost" if chance.random() < 0.5 else "the log's clock jumps")
                if self.outcome.faults[-1].startswith("leases"):
                    self.logs.stream(STREAMS.leases).recreate()
                else:
                    self._drift += chance.choice((-300, 300)) * 1_000_000_000
            case _:
                if self._lossy:
                    self._lose_data()

    def _worsen(self, seconds: float) -> None:
        for ingestor in self.ingestors:
            server = ingestor.server
            kind = self.chance.randrange(3)
            server.fails, server.stale, server.away = 0.3 * (kind == 0), 0.5 * (kind == 1), kind == 2
            self._later(seconds, lambda server=server: _mend(server))

    def _lose_data(self) -> None:
        stream = self.chance.choice((STREAMS.events, STREAMS.events, STREAMS.snapshots, STREAMS.keyframes))
        log = self.logs.stream(stream)
        order = log.sequences
        if not order:
            return
        match self.chance.randrange(4):
            case 0:
                log.recreate()
                self._fault(f"{stream} is deleted")
            case 1:
                last = self.chance.choice(order[-10:])
                log.roll_back(last - 1)
                self._fault(f"{stream} is rolled back to {last - 1}")
            case 2:
                sequence = self.chance.choice(order)
                log.lose(sequence)
                self._fault(f"{stream} loses {sequence}")
            case _:
                sequence = self.chance.choice(order)
                log.corrupt(sequence, b"{}")
                self._fault(f"{stream} {sequence} is changed")

    def _streams(self) -> tuple[str, ...]:
        return STREAMS.events, STREAMS.snapshots, STREAMS.keyframes, STREAMS.leases

    def _log_up(self) -> None:
        for name in self._streams():
            self.logs.stream(name).up()

    def _heal(self) -> None:
        self._tell("PEACE")
        self._log_up()
        for process in self.processes:
            process.link.change(cut=False)
            process.link.slow = process.link.loses = 0.0
            if not process.alive:
                process.start()
        for ingestor in self.ingestors:
            _mend(ingestor.server)

    def _keep_proxies(self) -> None:
        """A proxy for each pod that lives; a proxy ends with its pod."""
        wanted = {
            (proxy_key(objects.CLUSTER, namespace, name), value["metadata"]["uid"])
            for (kind, namespace, name), value in self.cluster.living.items()
            if kind == "Pod"
        }
        for identity in set(self.proxies) - wanted:
            self._retire(self.proxies.pop(identity))
        for identity in sorted(wanted - set(self.proxies)):
            self.proxies[identity] = SimulatedProxy(*identity, self.edges, self.chance)

    def _retire(self, proxy: SimulatedProxy) -> None:
        proxy.task.cancel()
        self.complaints += proxy.complaints
        self.outcome.resent += proxy.resent

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
            why = await self._disagreement()
            if not why:
                self.outcome.settled = loop.time() - began
                self._tell(f"settled after {self.outcome.settled:.2f} s")
                return
        self.outcome.broken.append(f"not settled in {PEACE:.0f} s: {why}")

    async def _disagreement(self) -> str:
        told = await self._living_in_the_log()
        if isinstance(told, str):
            return told
        wanted = self.cluster.events()
        truth = {str(event.key): (event.uid, bytes(event.object or b"")) for event in wanted}
        if told != truth:
            names = sorted(key for key in {*told, *truth} if told.get(key) != truth.get(key))
            return f"the log says otherwise of {', '.join(names[:3])}"
        snapshots = Snapshots(self.logs.stream(STREAMS.snapshots), self.logs.stream(STREAMS.keyframes), STREAMS)
        await snapshots.load()
        scratch = compile_events(wanted)
        if contents(snapshots.published) != contents(scratch):
            return f"version {snapshots.published.version} is not what a compile from scratch gives"
        self.outcome.commits = (await self.logs.stream(STREAMS.snapshots).bounds())[1]
        for edge in self.edges:
            if contents(edge.fleet.snapshot) != contents(scratch):
                return f"{edge.name} serves another snapshot, {edge.fleet.version}"
        for proxy in self.proxies.values():
            entry = scratch.proxies.get(proxy.key)
            if entry is not None and (why := proxy.differs(scratch.views[entry.workload_class])):
                return why
        return ""

    async def _living_in_the_log(self) -> dict[str, tuple[str, bytes]] | str:
        verifier = Verifier()
        living: dict[str, tuple[str, bytes]] = {}
        epochs: set[str] = set()
        broken = ""
        async for record in self.logs.stream(STREAMS.events).read(subjects=SCOPE):
            try:
                if verifier.fold(record):
                    living.clear()
                    broken = ""
            except Exception as error:  # noqa: BLE001 (it is the answer)
                broken = broken or f"the chain is broken: {error}"
                verifier = Verifier()
                verifier.fold(record)
            epochs.add(record.epoch)
            try:
                event = events.decode(record.payload)
            except Exception as error:  # noqa: BLE001
                broken = broken or f"record {record.sequence} cannot be read: {error}"
                continue
            if event.operation == events.DELETED:
                living.pop(str(event.key), None)
            else:
                living[str(event.key)] = (event.uid, bytes(event.object or b""))
        self.outcome.epochs = max(self.outcome.epochs, len(epochs))
        return broken or living


def _mend(server: object) -> None:
    for name, value in (("fails", 0.0), ("stale", 0.0), ("away", False)):
        setattr(server, name, value)


def simulate(
    seed: int,
    say: Callable[[str], None] = lambda _: None,
    *,
    compared: int = 0,
    compiler: type[Compiler] = Compiler,
) -> Outcome:
    """Run one seed to its end, then compare so many of its commits, drawn, with a compile from scratch (0: all)."""
    logging.disable(logging.CRITICAL)

    async def main() -> Outcome:
        simulation = Simulation(seed, say, compiler)
        try:
            await simulation.run()
        except NothingWillHappenError:
            simulation.outcome.broken.append("everything waits for ever")
        # A chance of its own: how many are compared changes nothing of what happens.
        drawing = random.Random(seed)  # noqa: S311 (repeatable on purpose)
        simulation.outcome.compared, differing = simulation.ledger.differing(drawing, compared)
        simulation.outcome.broken += differing
        return simulation.outcome

    loop = SimulatedLoop()
    unexpected: list[str] = []
    loop.set_exception_handler(lambda _, context: unexpected.append(str(context.get("exception") or context)))
    try:
        outcome = loop.run_until_complete(main())
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
