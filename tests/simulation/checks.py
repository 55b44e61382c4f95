"""What must hold when everything has come to rest, read from the log as it then is and from what serves."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable

from services.compiler.core.offline import compile_events
from services.compiler.log.snapshot_store import SnapshotStore
from shared.eventlog.chain import ChainVerifier
from shared.eventlog.protocol import HEADER_KEPT, Record
from shared.records import chunked_payload, events
from shared.records.events import Event
from shared.records.pins import SUBJECT_END
from shared.records.snapshot import Snapshot, SnapshotError, decode_commit
from tests.simulation.cluster import Cluster
from tests.simulation.ledger import RecordedLogs
from tests.simulation.processes import SCOPE, STREAMS, EdgeProcess
from tests.simulation.proxies import SimulatedProxy
from tests.simulation.witness import contents

Published = Callable[[str, int], list[Snapshot]]

Told = dict[str, tuple[str, bytes]]
"""Key → uid and object, of what lives."""


class Events:
    """The log of events, read once from its beginning."""

    def __init__(self) -> None:
        self.broken = ""
        """Why its chain does not hold; empty: it does."""
        self.living: Told = {}
        self.epochs: set[str] = set()
        self.doubled: list[str] = []
        """Records equal to the record before them of the same object, without need."""
        self._verifier = ChainVerifier()
        self._said: dict[str, bytes] = {}

    def fold(self, record: Record) -> None:
        """Take the next record."""
        try:
            if self._verifier.fold(record):
                self.living.clear()
                self._said.clear()
                self.broken = ""
        except Exception as error:  # noqa: BLE001 (it is the answer)
            self.broken = self.broken or f"the chain is broken: {error}"
            self._verifier = ChainVerifier()
            self._verifier.fold(record)
            # It may have been the first of an epoch, in which all objects are written again.
            self._said.clear()
        self.epochs.add(record.epoch)
        try:
            event = events.read(record)
        except events.CorruptEventError as error:
            if not record.subject.endswith(SUBJECT_END):  # where guests may write, and no reader trusts it
                self.broken = self.broken or f"record {record.sequence} cannot be read: {error}"
            return
        except Exception as error:  # noqa: BLE001
            self.broken = self.broken or f"record {record.sequence} cannot be read: {error}"
            return
        self._live(event)
        if self._said.get(record.subject) == record.payload and HEADER_KEPT not in record.headers:
            self.doubled.append(f"record {record.sequence} says again what {event.key} said")
        self._said[record.subject] = record.payload

    def _live(self, event: Event) -> None:
        if event.operation == events.DELETED:
            self.living.pop(str(event.key), None)
        else:
            self.living[str(event.key)] = (event.uid, bytes(event.object or b""))


async def read_events(logs: RecordedLogs) -> Events:
    """The log of events as it is now."""
    found = Events()
    async for record in logs.stream(STREAMS.events).read(subjects=SCOPE):
        found.fold(record)
    return found


async def disagreement(
    logs: RecordedLogs, cluster: Cluster, edges: list[EdgeProcess], proxies: list[SimulatedProxy], told: Events
) -> str:
    """The proxies that differ from a compile of the cluster from scratch; empty if there are none."""
    if told.broken:
        return f"P11: {told.broken}"
    wanted = cluster.events()
    truth = {str(event.key): (event.uid, bytes(event.object or b"")) for event in wanted}
    if told.living != truth:
        names = sorted(key for key in {*told.living, *truth} if told.living.get(key) != truth.get(key))
        return f"P1: the log says otherwise of {', '.join(names[:3])}"
    snapshots = SnapshotStore(logs.stream(STREAMS.snapshots), logs.stream(STREAMS.keyframes), STREAMS)
    await snapshots.load()
    scratch = compile_events(wanted)
    if contents(snapshots.published) != contents(scratch):
        return f"P2: version {snapshots.published.version} is not what a compile from scratch gives"
    for edge in edges:
        if contents(edge.fleet.snapshot) != contents(scratch):
            return f"P2: {edge.name} serves another snapshot, {edge.fleet.version}"
    for proxy in proxies:
        entry = scratch.proxies.get(proxy.key)
        if entry is not None and (why := proxy.differs(scratch.views[entry.workload_class])):
            return f"P4: {why}"
    return ""


async def history(logs: RecordedLogs, published: Published) -> list[str]:
    """P12: from each keyframe that is kept, every later version can be rebuilt from the log, as it was published."""
    commits = [
        decode_commit(payload)
        async for payload in _blobs(logs.stream(STREAMS.snapshots).read(subjects=STREAMS.snapshot_subject))
    ]
    wrong: list[str] = []
    async for payload in _blobs(logs.stream(STREAMS.keyframes).read(subjects=STREAMS.keyframe_subject)):
        snapshot = Snapshot()
        snapshot.apply(decode_commit(payload))
        for commit in [None, *(commit for commit in commits if commit.version > snapshot.version)]:
            try:
                if commit is not None:
                    snapshot.apply(commit)
            except SnapshotError as error:
                wrong.append(f"P12: version {commit.version if commit else 0} cannot be rebuilt: {error}")
                break
            if not any(contents(each) == contents(snapshot) for each in published(snapshot.epoch, snapshot.version)):
                wrong.append(f"P12: version {snapshot.version} rebuilt is not what was published")
                break
    return wrong


async def _blobs(records: AsyncIterator[Record]) -> AsyncIterator[bytes]:
    assembler = chunked_payload.Assembler()
    async for record in records:
        payload = assembler.feed(record)
        if payload is not None:
            yield payload
