"""Checks the claims of verbs about arrivals, of every version at every step, and at random moments in between.

Two readers of the log claim that a change arrived. A tracker of `meshlog rollout` receives each commit and each status
as it is written. A simulated person asks as `meshlog apply --wait` does: is the object in the log as the API keeps it,
and has the version with that event arrived? Whenever either reports "complete", each proxy that the version concerns,
by the commits and not by the tracker, is checked: what it holds, and lacks, is as in that version or a later one.
"""

from __future__ import annotations

import asyncio
import json
import random
from collections.abc import Callable, Mapping
from typing import Any, cast

from cli.arrival.recorded import Recorder
from cli.arrival.tracker import Tracker
from cli.arrival.wait import arrived
from cli.history.archive import About
from cli.history.log_source import LogSource
from cli.kubernetes.api_client import Api, AppliedObject, Manifest
from shared.errors import MeshlogError
from shared.eventlog.protocol import Record
from shared.records import chunked_payload
from shared.records.proxy_status import status_in
from shared.records.snapshot import TYPE_URLS, Snapshot, SnapshotError, decode_commit
from tests.simulation.cluster import API_VERSIONS, Cluster
from tests.simulation.ledger import RecordedLogs
from tests.simulation.processes import STREAMS
from tests.simulation.proxies import SimulatedProxy
from tests.simulation.witness import Holds, copied
from tests.unit.compiler import objects

HOME = "meshlog-system"
PATIENCE = 4.0
"""Seconds for which a person waits for an answer."""
PAUSE = 5.0
"""Seconds between two questions, in the middle."""

Proxies = Mapping[tuple[str, str], SimulatedProxy]
"""Every proxy that lives, by key and uid."""


class Arrivals:
    """All versions that were ever published, and what is claimed of them."""

    def __init__(self, logs: RecordedLogs, proxies: Proxies) -> None:
        self.complaints: list[str] = []
        self.claims = 0
        """How often a reader reported the arrival of a version that concerns a proxy."""
        self._proxies = proxies
        self._assembler = chunked_payload.Assembler()
        self._published: list[tuple[Snapshot, Snapshot]] = []
        """Each version with the one that it follows, as they were published."""
        self._held: dict[int, Snapshot] = {0: Snapshot()}
        self._tracker = Tracker(from_nothing=True)
        self._open: set[int] = set()
        """Versions of the tracker that have not arrived."""
        logs.stream(STREAMS.snapshots).also(self._commit)
        logs.stream(STREAMS.status).also(self._status)

    def _commit(self, record: Record) -> None:
        payload = self._assembler.feed(record)
        if payload is None:
            return
        commit = decode_commit(payload)
        parent = self._held.get(commit.parent)
        if parent is None:
            return  # the ledger reports that
        snapshot = copied(parent)
        snapshot.apply(commit)
        self._held[commit.version] = snapshot
        # A commit without a parent concerns a proxy by its difference from the last snapshot.
        before = self._published[-1][1] if self._published and not commit.parent else parent
        self._published.append((before, snapshot))
        try:
            self._tracker.take_commit(commit)
        except SnapshotError:
            # Commits that it has read are lost. As a verb does it begins anew at the version before.
            known, self._tracker = self._tracker.status, Tracker()
            self._open.clear()
            self._tracker.take_commit(before.keyframe())
            for status in known.values():
                self._tracker.take_status(status)
            self._tracker.take_commit(commit)
        self._open.add(commit.version)
        self._look()

    def _status(self, record: Record) -> None:
        status = status_in(record, STREAMS)
        if status is not None:
            self._tracker.take_status(status)
            self._look()

    def _look(self) -> None:
        for version in sorted(self._open):
            if self._tracker.rollout(after=version - 1, until=version).complete:
                self._open.discard(version)
                self.claimed("rollout", version)

    def unsaid(self) -> str:
        """The running proxy whose newest status does not show that it holds all; empty if there is none."""
        newest = self._published[-1][1] if self._published else Snapshot()
        found = self._tracker.rollout(after=0, until=newest.version)
        waiting = [
            key
            for key in found.waiting
            if (entry := newest.proxies.get(key)) is not None and (key, entry.uid) in self._proxies
        ]
        return f"P10: nothing says that {waiting[0]} holds {newest.version}" if waiting else ""

    def claimed(self, verb: str, version: int) -> None:
        """A verb reported that a version arrived: so each running proxy concerned holds it, or a later one."""
        index = next(
            (place for place in reversed(range(len(self._published))) if self._published[place][1].version == version),
            None,
        )
        if index is None:
            self.complaints.append(f"P13: {verb} says that version {version} arrived, which was never published")
            return
        before, snapshot = self._published[index]
        later = [each for _, each in self._published[index:]]
        concerned = [
            (key, entry.uid)
            for key, entry in sorted(snapshot.proxies.items())
            if _view(before, key, entry.uid) != _view(snapshot, key, entry.uid)
        ]
        self.claims += bool(concerned)
        for key, uid in concerned:
            proxy = self._proxies.get((key, uid))
            if proxy is None or _view(later[-1], key, uid) is None:
                continue  # its pod is gone, or the mesh has let go of it
            views = [view for each in later if (view := _view(each, key, uid)) is not None]
            if why := lacking(proxy.holds, views):
                self.complaints.append(f"P10: {verb} says that version {version} arrived, and {key} {why}")


def _view(snapshot: Snapshot, key: str, uid: str) -> Holds | None:
    entry = snapshot.proxies.get(key)
    return None if entry is None or entry.uid != uid else snapshot.views.get(entry.workload_class)


def lacking(holds: Holds, views: list[Holds]) -> str:
    """What is held, or missing, in contradiction to all these views; empty if all is as in one, even during a change.

    The first is the one to be held, those after it are later.
    """
    for type_url in TYPE_URLS:
        held, wanted = holds.get(type_url, {}), [view.get(type_url, {}) for view in views]
        for name in sorted({*held, *wanted[0]}):
            if held.get(name) not in {view.get(name) for view in wanted}:
                state = "holds another" if name in held else "has not"
                return f"{state} {type_url.rpartition('.')[2]} {name}"
    return ""


class LivingApi:
    """The API of a cluster, as far as `Recorder` asks."""

    def __init__(self, cluster: Cluster) -> None:
        self._cluster = cluster

    async def path_of(self, manifest: Manifest) -> str:
        return json.dumps([manifest["kind"], manifest["metadata"].get("namespace", ""), manifest["metadata"]["name"]])

    async def namespace_of(self, manifest: Manifest) -> str:
        return str(manifest["metadata"].get("namespace", ""))

    async def request(self, _method: str, path: str) -> tuple[int, Any]:
        kept = self._cluster.living.get(tuple(json.loads(path)))
        return (404, {}) if kept is None else (200, json.loads(json.dumps(kept)))


class Person:
    """Asks of what changed whether it arrived, as `meshlog apply --wait` does, now and then."""

    def __init__(
        self,
        logs: RecordedLogs,
        cluster: Cluster,
        arrivals: Arrivals,
        chance: random.Random,
        tell: Callable[[str], None],
    ) -> None:
        self._cluster = cluster
        self._arrivals = arrivals
        self._chance = chance
        self._tell = tell
        stream = logs.stream
        self._source = LogSource(
            about=About(
                cluster=objects.CLUSTER,
                prefix=STREAMS.prefix,
                mesh_name="meshlog",
                namespace=HOME,
                trust_domain="cluster.local",
                service_domain="cluster.local",
                build="b1",
                exported="",
            ),
            events=stream(STREAMS.events),
            snapshots=stream(STREAMS.snapshots),
            keyframes=stream(STREAMS.keyframes),
            status=stream(STREAMS.status),
            certs=stream(STREAMS.certs),
        )  # fmt: skip

    async def ask_for_ever(self) -> None:
        """Ask, wait for the answer, and ask again."""
        while True:
            await asyncio.sleep(self._chance.expovariate(1 / PAUSE))
            try:
                async with asyncio.timeout(2 * PATIENCE):
                    await self._ask()
            except (MeshlogError, TimeoutError) as error:
                # An error claims nothing.
                self._tell(f"a person is told: {type(error).__name__} {error}")

    async def _ask(self) -> None:
        kind, namespace, name = self._chance.choice(self._cluster.touched[-4:])
        manifest: Manifest = {
            "apiVersion": API_VERSIONS.get(kind, "v1"), "kind": kind, "metadata": {"name": name, "namespace": namespace}
        }  # fmt: skip
        api = cast("Api", LivingApi(self._cluster))
        recorder = Recorder(api, self._source.events, STREAMS, objects.CLUSTER, HOME)
        applied = AppliedObject(
            kind=kind, namespace=namespace, name=name, uid="", resource_version="", manifest=manifest
        )
        async with asyncio.timeout(PATIENCE):
            sequence = await recorder.sequence([applied])
        if not sequence:
            return
        found = await arrived(self._source, sequence, within=PATIENCE)
        if found is None or not found.complete or found.version < sequence:
            return  # not in time, or it changes no proxy's configuration
        self._tell(f"a person is told that {kind} {namespace}/{name} arrived with version {found.version}")
        self._arrivals.claimed("apply", found.version)
