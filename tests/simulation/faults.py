"""What goes wrong, drawn: each kind by its weight, of a process, a stream or the API server, for a while.

Faults overlap as they fall. `Faults.heal` ends all of them. Those that lose what was acknowledged fall only in the
histories that are drawn to have them, so that in the others a new epoch is a bug.
"""

from __future__ import annotations

import asyncio
import contextlib
import random
from collections.abc import Callable

from shared.eventlog.protocol import GENESIS, HEADER_BATCH, HEADER_CHAIN, HEADER_EPOCH, Draft, EventLogError
from shared.records import events
from shared.records.pins import PIN_KIND, PIN_NAME
from shared.records.subjects import Streams
from tests.simulation.cluster import Cluster
from tests.simulation.disk import flipped
from tests.simulation.ledger import RecordedLog, RecordedLogs
from tests.simulation.life import outside
from tests.simulation.network import keep
from tests.simulation.processes import CompilerProcess, EdgeProcess, IngestorProcess, Process
from tests.simulation.proxies import SimulatedProxy
from tests.unit.compiler import objects

_ANSWER = b'{"type":"io.nats.jetstream.api.v1.stream_info_response","total":0}'
_GRANT = objects.target(
    "store",
    "forged",
    destination="store-v1",
    sources=[("buy", "thief")],
    rules=[("HTTPRouteGroup", "routes", [])],
)
"""Policy that no author wrote."""

_WHILE = (0.3, 1.0, 3.0, 10.0)
"""Seconds that a fault may last."""


class Faults:
    """All that can go wrong in one world, and its schedule so far."""

    def __init__(
        self,
        chance: random.Random,
        tell: Callable[[str, str], None],
        *,
        logs: RecordedLogs,
        streams: Streams,
        cluster: Cluster,
        processes: list[Process],
        proxies: dict[tuple[str, str], SimulatedProxy],
    ) -> None:
        """`tell(kind, what)` is called for each fault."""
        self.drift = 0
        """Nanoseconds by which the log's clock is wrong."""
        self.loses = chance.random() < 0.4
        """Whether the log loses what it acknowledged."""
        self._chance = chance
        self._tell = tell
        self._logs = logs
        self._streams = streams
        self._cluster = cluster
        self._processes = processes
        self._proxies = proxies
        self._kinds: list[tuple[int, str, Callable[[Process, float], str]]] = [
            (4, "kill", self._kill),
            (4, "crash at an await", self._crash),
            (2, "crash while it starts", self._crash_again),
            (2, "stop", self._stop),
            (3, "freeze", self._freeze),
            (3, "cut off", self._cut),
            (2, "mute", self._mute),
            (2, "deaf", self._deaf),
            (2, "delays", self._delay),
            (2, "losses", self._lose),
            (2, "duplicates", self._repeat),
            (2, "log away", self._log_away),
            (3, "slow log disk", self._log_slow),
            (1, "full log disk", self._log_full),
            (3, "edge disk", self._edge_disk),
            (1, "slow proxies", self._slow_proxies),
            (3, "API server", self._server),
            (2, "compaction", self._compact),
            (1, "lease lost", self._lose_leases),
            (1, "log clock jumps", self._log_clock),
            (1, "machine clock jumps", self._machine_clock),
            (4, "foreign records", self._intrude),
            (4 if self.loses else 0, "data loss", self._lose_data),
            (1 if self.loses else 0, "lost statuses", self._lose_statuses),
        ]

    def one(self) -> None:
        """Draw one, and let it happen."""
        weights = [weight for weight, _, _ in self._kinds]
        _, kind, happen = self._chance.choices(self._kinds, weights)[0]
        what = happen(self._chance.choice(self._processes), self._chance.choice(_WHILE))
        if what:
            self._tell(kind, what)

    def heal(self) -> None:
        """From now on nothing is wrong any more, and everything runs."""
        for log in self._all_streams():
            log.slow, log.full = 0.0, False
            log.up()
        for proxy in self._proxies.values():
            proxy.slow = 0.0
        for process in self._processes:
            process.link.mend()
            process.crashes_early = process.life.fuse = 0
            process.life.thaw()
            if isinstance(process, EdgeProcess):
                process.disk.slow = 0.0
            if isinstance(process, IngestorProcess):
                process.server.mend()
            if not process.alive:
                process.start()

    def _later(self, seconds: float, action: Callable[[], object]) -> None:
        asyncio.get_running_loop().call_later(seconds, action)

    # Processes

    def _kill(self, process: Process, seconds: float) -> str:
        if not process.alive:
            return ""
        process.kill()
        self._later(seconds, lambda: process.alive or process.start())
        return f"kill {process.name} for {seconds} s"

    def _crash(self, process: Process, seconds: float) -> str:
        if not process.alive or process.life.fuse:
            return ""
        process.life.fuse = self._awaits()
        self._come_back(process, seconds)
        return f"crash {process.name} after {process.life.fuse} awaits for {seconds} s"

    def _crash_again(self, process: Process, seconds: float) -> str:
        if not process.alive:
            return ""
        process.kill()
        process.crashes_early = self._awaits()
        self._later(seconds, lambda: process.alive or process.start())
        self._later(seconds, lambda: self._come_back(process, 1.0))
        return f"kill {process.name}, and again {process.crashes_early} awaits after its start"

    def _stop(self, process: Process, seconds: float) -> str:
        if not process.alive:
            return ""
        process.stop()
        if self._chance.random() < 0.3:
            process.life.fuse = process.life.fuse or self._awaits()
        self._come_back(process, seconds)
        return f"stop {process.name} for {seconds} s"

    def _come_back(self, process: Process, seconds: float) -> None:
        """Whenever it is gone, it is started again so much later."""

        def look() -> None:
            if not process.alive:
                self._later(seconds, lambda: process.alive or process.start())
            elif process.lives == life:
                self._later(0.5, look)

        life = process.lives
        self._later(0.5, look)

    def _awaits(self) -> int:
        return int(2.0 ** self._chance.uniform(0.0, 8.0))

    def _freeze(self, process: Process, seconds: float) -> str:
        if not process.alive or process.life.frozen:
            return ""
        life, suspended = process.life, self._chance.random() < 0.3
        life.freeze()

        def thaw() -> None:
            if suspended and life.frozen and process.life is life:
                process.stood_still += seconds
            life.thaw()

        self._later(seconds, thaw)
        return f"freeze {process.name}{' and its clock' if suspended else ''} for {seconds} s"

    def _machine_clock(self, process: Process, _seconds: float) -> str:
        before, process.skew = process.skew, self._chance.uniform(-300.0, 300.0)
        return f"the clock of {process.name} jumps by {process.skew - before:+.0f} s"

    # The way to the log

    def _cut(self, process: Process, seconds: float) -> str:
        link = process.link
        link.change(mute=True, deaf=True)
        self._later(seconds, lambda: link.change(mute=False, deaf=False))
        return f"cut off {process.name} for {seconds} s"

    def _mute(self, process: Process, seconds: float) -> str:
        link = process.link
        link.change(mute=True)
        self._later(seconds, lambda: link.change(mute=False))
        return f"nothing from {process.name} arrives for {seconds} s"

    def _deaf(self, process: Process, seconds: float) -> str:
        link = process.link
        link.change(deaf=True)
        self._later(seconds, lambda: link.change(deaf=False))
        return f"nothing to {process.name} arrives for {seconds} s"

    def _delay(self, process: Process, seconds: float) -> str:
        link = process.link
        link.slow = self._chance.choice((0.1, 1.0, 4.0))
        self._later(seconds, lambda: setattr(link, "slow", 0.0))
        return f"{link.slow} s of delay for {process.name} for {seconds} s"

    def _lose(self, process: Process, seconds: float) -> str:
        link = process.link
        link.loses = 0.2
        self._later(seconds, lambda: setattr(link, "loses", 0.0))
        return f"losses of {process.name} for {seconds} s"

    def _repeat(self, process: Process, seconds: float) -> str:
        link = process.link
        link.repeats = 0.5
        self._later(seconds, lambda: setattr(link, "repeats", 0.0))
        return f"{process.name} says and hears things twice for {seconds} s"

    # The log

    def _all_streams(self) -> list[RecordedLog]:
        streams = self._streams
        names = streams.events, streams.snapshots, streams.keyframes, streams.leases, streams.status
        return [self._logs.stream(name) for name in names]

    def _some_streams(self) -> list[RecordedLog]:
        streams = self._all_streams()
        return streams if self._chance.random() < 0.5 else [self._chance.choice(streams)]

    def _log_away(self, _process: Process, seconds: float) -> str:
        streams = self._some_streams()
        for log in streams:
            log.down()
            self._later(seconds, log.up)
        return f"{_names(streams)} is away for {seconds} s"

    def _log_slow(self, _process: Process, seconds: float) -> str:
        streams, slow = self._some_streams(), self._chance.choice((0.3, 2.0, 8.0))
        for log in streams:
            log.slow = slow
            self._later(seconds, lambda log=log: setattr(log, "slow", 0.0))
        return f"the disk of {_names(streams)} takes up to {slow} s for {seconds} s"

    def _log_full(self, _process: Process, seconds: float) -> str:
        streams = self._some_streams()
        for log in streams:
            log.full = True
            self._later(seconds, lambda log=log: setattr(log, "full", False))
        return f"the disk of {_names(streams)} is full for {seconds} s"

    def _intrude(self, _process: Process, _seconds: float) -> str:
        """The server writes of itself, or a stranger who may write the pin's subject."""
        log, count = self._chance.choice(self._all_streams()), int(2.0 ** self._chance.uniform(0.0, 5.0))
        for _ in range(count):
            self._write_foreign(log)
        return f"{count} records in {log.name} that no process wrote"

    def _write_foreign(self, log: RecordedLog) -> None:
        chance, streams, events_log = self._chance, self._streams, self._logs.stream(self._streams.events)
        subjects = [streams.snapshot_subject if log.name == streams.snapshots else streams.keyframe_subject]
        if log.name == streams.leases:
            subjects = [streams.lease_subject(name) for name in ("compiler", f"ingestor-{objects.CLUSTER}")]
        if log.name == streams.status:
            subjects = [streams.status_subject(objects.CLUSTER, "red", "p1")]
        if log is events_log:
            held = [log.subject(sequence) for sequence in log.sequences[-20:]]
            subjects = [streams.event_subject(objects.CLUSTER, "Pod", "x", "y"), *held]
        subject = chance.choice(subjects)
        match chance.randrange(5 if log is events_log else 3):
            case 0:
                log.intrude(subject, _ANSWER)
            case 1:
                log.intrude(subject, b"", {"Nats-Last-Consumer": "6"})
            case 2:
                # What was delivered here stands under its old subject, or is marked as a copy.
                moved = {"Nats-Stream": streams.events}
                if events_log.sequences:
                    sequence = chance.choice(events_log.sequences)
                    elsewhere = {} if log is not events_log else moved
                    headers = {**events_log.headers(sequence), **elsewhere}
                    log.intrude(events_log.subject(sequence), events_log.payload(sequence), headers)
            case 3:
                chain = chance.choice((GENESIS, "f" * 32))
                headers = {HEADER_EPOCH: "ffffffff-strange", HEADER_CHAIN: chain, HEADER_BATCH: "1/1"}
                log.intrude(self._pin, events.encode(_GRANT), headers)
            case _:
                keep(outside(self._forge(log)))

    @property
    def _pin(self) -> str:
        return self._streams.event_subject(objects.CLUSTER, PIN_KIND, "", PIN_NAME)

    async def _forge(self, log: RecordedLog) -> None:
        """Continue the chain by what does not belong there: a grant under the subject of the pin."""
        scope = self._streams.cluster_scope(objects.CLUSTER)
        with contextlib.suppress(EventLogError):
            tip = await log.tip(scope)
            if tip.epoch:
                await log.append([Draft(self._pin, events.encode(_GRANT))], scope=scope, after=tip)

    def _lose_leases(self, _process: Process, _seconds: float) -> str:
        self._logs.stream(self._streams.leases).recreate()
        return "leases are lost"

    def _log_clock(self, _process: Process, _seconds: float) -> str:
        seconds = self._chance.choice((-300, 300))
        self.drift += seconds * 1_000_000_000
        return f"the log's clock jumps by {seconds:+} s"

    def _lose_data(self, _process: Process, _seconds: float) -> str:
        chance, streams = self._chance, self._streams
        log = self._logs.stream(chance.choice((streams.events, streams.events, streams.snapshots, streams.keyframes)))
        order = log.sequences
        if not order:
            return ""
        if log.name == streams.events and chance.random() < 0.4:
            # Damage that only a new reader detects.
            for process in self._processes:
                if isinstance(process, CompilerProcess) and process.alive:
                    process.kill()
                    self._later(0.3, lambda process=process: process.alive or process.start())
        match chance.randrange(5):
            case 0:
                log.recreate()
                return f"{log.name} is deleted"
            case 1:
                last = chance.choice(order[-10:])
                log.roll_back(last - 1)
                return f"{log.name} is rolled back to {last - 1}"
            case 2:
                sequence = chance.choice(order)
                log.lose(sequence)
                return f"{log.name} loses {sequence}"
            case 3:
                sequence = chance.choice(order)
                log.corrupt(sequence, b"{}")
                return f"{log.name} {sequence} is changed"
            case _:
                sequence = chance.choice(order)
                log.corrupt(sequence, flipped(log.payload(sequence), chance))
                return f"a bit of {log.name} {sequence} is flipped"

    def _lose_statuses(self, _process: Process, _seconds: float) -> str:
        """Statuses have no chain that shows a loss, so it has to be harmless."""
        log = self._logs.stream(self._streams.status)
        order = log.sequences
        if not order:
            return ""
        match self._chance.randrange(3):
            case 0:
                log.recreate()
                return f"{log.name} is deleted"
            case 1:
                last = self._chance.choice(order[-10:])
                log.roll_back(last - 1)
                return f"{log.name} is rolled back to {last - 1}"
            case _:
                sequence = self._chance.choice(order)
                log.lose(sequence)
                return f"{log.name} loses {sequence}"

    # Edges and proxies

    def _edge_disk(self, _process: Process, seconds: float) -> str:
        chance = self._chance
        edge = chance.choice([process for process in self._processes if isinstance(process, EdgeProcess)])
        if not edge.alive or chance.random() < 0.3:
            edge.disk.slow = chance.choice((1.0, 6.0))
            self._later(3 * seconds, lambda: setattr(edge.disk, "slow", 0.0))
            return f"the disk of {edge.name} takes up to {edge.disk.slow} s for {3 * seconds} s"
        edge.kill()
        torn = edge.disk.tear()
        self._later(seconds, lambda: edge.alive or edge.start())
        return f"{edge.name} loses power for {seconds} s, its disk {torn or 'is empty'}"

    def _slow_proxies(self, _process: Process, seconds: float) -> str:
        proxies = [self._proxies[identity] for identity in sorted(self._proxies)]
        for proxy in proxies:
            proxy.slow = 4.0
            self._later(seconds, lambda proxy=proxy: setattr(proxy, "slow", 0.0))
        return f"proxies answer slowly for {seconds} s" if proxies else ""

    # Kubernetes

    def _server(self, _process: Process, seconds: float) -> str:
        told: list[str] = []
        for ingestor in self._processes:
            if not isinstance(ingestor, IngestorProcess):
                continue
            kind = self._chance.choice(("fails", "stale", "stale", "away", "mute", "deaf"))
            ingestor.server_is(kind)
            self._later(seconds, ingestor.server_mends)
            told.append(kind)
        return f"the API server is {' and '.join(told)} for {seconds} s"

    def _compact(self, _process: Process, _seconds: float) -> str:
        self._cluster.compacted = self._cluster.version
        self._cluster.history.clear()
        return "history is compacted"


def _names(streams: list[RecordedLog]) -> str:
    return streams[0].name if len(streams) == 1 else "the log"
