"""What history costs: a long log over a large mesh, as a file, and questions about it, each in a cold process's terms.

The mesh has 1,000 services in 50 namespaces, 10 pods each; the log goes on with pods that become ready and unready,
a thousand events a version, and keyframes as often as the compiler writes them. `EVENTS=n` makes it shorter or longer
(default 1,000,000), `LOG=file` keeps it. Peers do not offer these queries, so there is no comparison. What
was read of the file is dropped before each query; importing is not counted.
"""

from __future__ import annotations

import asyncio
import os
import tempfile
import time
from collections.abc import Awaitable, Callable
from pathlib import Path

from benchmarks.table import Result, Row
from cli.explain.provenance import why
from cli.history.archive import STATE_EVERY, About, ArchiveWriter
from cli.history.archive_stream import Archive
from cli.history.changes import between
from cli.history.head_offset import version_back
from cli.history.log_source import collect_rarely, of_archive
from cli.history.timeline import Timeline
from cli.plan.planner import plan
from cli.replay.verification import Replay
from services.compiler.core.compiler import Compiler
from services.compiler.log.keyframe_writer import KeyframePolicy
from services.compiler.mesh_state import MeshSettings
from shared.eventlog.chain import chain_batch
from shared.eventlog.protocol import EMPTY, Checkpoint, Draft, Record
from shared.io.atomic_file import replacing
from shared.projected_objects import (
    ANNOTATION_SIDECAR,
    LABEL_MONITORED_BY,
    EndpointConditions,
    EndpointSlice,
    Meta,
    Namespace,
    Pod,
    PodSpec,
    PodStatus,
    PolicyObject,
    Service,
    ServicePort,
    ServiceSpec,
    SliceEndpoint,
    SlicePort,
    TargetRef,
)
from shared.records import chunked_payload, events
from shared.records.events import Event
from shared.records.snapshot import CDS, Snapshot, encode_commit
from shared.records.subjects import Streams

EVENTS = int(os.environ.get("EVENTS", "1000000"))
KEPT = os.environ.get("LOG", "")
"""A file to keep the log in, and to ask again if it is there already."""
SERVICES, PODS, NAMESPACES = 1000, 10, 50
BATCH = 1000
"""Events in one version, and in one atomic batch."""
LIMITS = KeyframePolicy()
"""When the compiler writes a keyframe."""
CLUSTER = "bench"
ASKED = f"{CLUSTER}/ns3/s53-4"
"""The proxy that `why` is asked about."""
STREAMS = Streams()


def run() -> Result:
    """Make the log, then ask."""
    collect_rarely()
    with tempfile.TemporaryDirectory(prefix="meshlog-bench-") as folder:
        path = Path(KEPT) if KEPT else Path(folder) / "log"
        rows: list[Row] = []
        if not path.exists():
            began = time.perf_counter()
            _Maker(path).make()
            rows.append(Row("making the log (compile and write)", round(time.perf_counter() - began, 1), "s"))
        rows = [*_sizes(path), *rows, *asyncio.run(_ask(path))]
        return Result(name="history", command="make bench-history (EVENTS=n LOG=file)", rows=rows)


def _sizes(path: Path) -> list[Row]:
    archive = Archive(path)
    streams = archive.contents.streams
    events = sum(block.count for block in streams["events"])
    versions = sum(block.count for block in streams["snapshots"])  # a commit of this mesh is one record
    disk = {noun: sum(block.length for block in blocks) for noun, blocks in streams.items()}
    states = sum(block.length for state in archive.contents.states for block in state.blocks)
    archive.close()
    return [
        Row("events", events, "events"),
        Row("versions", versions, "versions"),
        Row("whole file", round(path.stat().st_size / 1e6), "MB"),
        Row("disk per event", round(disk["events"] / events), "bytes"),
        Row("disk per event for states to start from", round(states / events), "bytes"),
        Row("disk per version of 1,000 changes: its commit", round(disk["snapshots"] / versions / 1e3), "kB"),
        Row("disk per version for keyframes", round(disk["keyframes"] / versions / 1e3), "kB"),
    ]


def _name(number: int) -> tuple[str, str]:
    return f"ns{number % NAMESPACES}", f"s{number}"


def _event(kind: str, namespace: str, name: str, value: object, version: int, *, api_version: str = "v1") -> Event:
    return Event(
        schema=1,
        cluster=CLUSTER,
        kind=kind,
        namespace=namespace,
        name=name,
        uid=f"{kind}-{name}",
        resource_version=str(version),
        operation="applied",
        api_version=api_version,
        object=events.encode_object(value),
    )


def _slice(number: int, version: int, unready: int) -> Event:
    namespace, name = _name(number)
    endpoints = [
        SliceEndpoint(
            addresses=[f"10.{number // 250}.{number % 250}.{pod}"],
            conditions=EndpointConditions(ready=pod != unready),
            target_ref=TargetRef(kind="Pod", name=f"{name}-{pod}", namespace=namespace, uid=f"Pod-{name}-{pod}"),
        )
        for pod in range(PODS)
    ]
    meta = Meta(name=name, namespace=namespace, labels={"kubernetes.io/service-name": name})
    value = EndpointSlice(metadata=meta, endpoints=endpoints, ports=[SlicePort(name="http", port=8080)])
    return _event("EndpointSlice", namespace, name, value, version)


def _mesh() -> list[Event]:
    """Every service may be called by the next five."""
    member = {LABEL_MONITORED_BY: "meshlog"}
    found = [
        _event("Namespace", "", f"ns{n}", Namespace(Meta(name=f"ns{n}", labels=member)), 1) for n in range(NAMESPACES)
    ]
    for number in range(SERVICES):
        namespace, name = _name(number)
        spec = ServiceSpec(
            cluster_ip=f"10.96.{number // 250}.{number % 250}",
            selector={"app": name},
            ports=[ServicePort(port=80, name="http", target_port=8080)],
        )
        found.append(_event("Service", namespace, name, Service(Meta(name=name, namespace=namespace), spec), 1))
        for pod in range(PODS):
            meta = Meta(
                name=f"{name}-{pod}",
                namespace=namespace,
                uid=f"Pod-{name}-{pod}",
                labels={"app": name},
                annotations={ANNOTATION_SIDECAR: "bench"},
            )
            status = PodStatus(phase="Running", pod_ip=f"10.{number // 250}.{number % 250}.{pod}")
            found.append(_event("Pod", namespace, meta.name, Pod(meta, PodSpec(service_account_name=name), status), 1))
        found.append(_slice(number, 1, -1))
        sources = [_name((number + step) % SERVICES) for step in range(1, 6)]
        spec_of_target = {
            "destination": {"kind": "ServiceAccount", "name": name, "namespace": namespace},
            "sources": [{"kind": "ServiceAccount", "name": who, "namespace": where} for where, who in sources],
            "rules": [{"kind": "HTTPRouteGroup", "name": "all"}],
        }
        target = PolicyObject(Meta(name=name, namespace=namespace), spec_of_target)
        found.append(_event("TrafficTarget", namespace, name, target, 1, api_version="access.smi-spec.io/v1alpha3"))
    for n in range(NAMESPACES):
        group = PolicyObject(
            Meta(name="all", namespace=f"ns{n}"), {"matches": [{"name": "all", "pathRegex": "/.*", "methods": ["*"]}]}
        )
        found.append(_event("HTTPRouteGroup", f"ns{n}", "all", group, 1, api_version="specs.smi-spec.io/v1alpha4"))
    return found


class _Maker:
    """Writes the log as an export of it would be."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._compiler = Compiler(MeshSettings(cluster=CLUSTER))
        self._snapshot = Snapshot()
        self._newest: dict[str, Record] = {}
        self._sequences = {"events": 0, "snapshots": 0, "keyframes": 0}
        self._tips: dict[str, Checkpoint] = dict.fromkeys(self._sequences, EMPTY)
        self._versions = 0
        self._since_state = 0
        self._since_keyframe = 0
        self._commits_since_keyframe = 0

    def make(self) -> None:
        """Write the file; it appears when it is whole."""
        about = About(CLUSTER, "mesh", "meshlog", "meshlog-system", "cluster.local", "cluster.local", "bench", "")
        with replacing(self._path, mode=0o666, sync="none") as file:
            writer = ArchiveWriter(file, about)
            mesh = _mesh()
            for start in range(0, len(mesh), BATCH):
                self._batch(writer, mesh[start : start + BATCH], commit=start + BATCH >= len(mesh))
            turn = 0
            while self._sequences["events"] < EVENTS:
                batch = [
                    _slice((turn + n) * 7 % SERVICES, turn + n, (turn + n) // SERVICES % PODS) for n in range(BATCH)
                ]
                turn += BATCH
                self._batch(writer, batch, commit=True)
            writer.finish()

    def _append(self, writer: ArchiveWriter, noun: str, drafts: list[Draft], scope: str) -> list[Record]:
        tip = self._tips[noun]
        forged = chain_batch(drafts, scope=scope, after=tip, epoch="" if tip.epoch else "bench")
        records: list[Record] = []
        for draft, headers in zip(drafts, forged.headers, strict=True):
            self._sequences[noun] += 1
            own = {**headers, **draft.headers}
            records.append(Record(draft.subject, self._sequences[noun], draft.payload, self._sequences["events"], own))
            writer.add(noun, records[-1])
        self._tips[noun] = forged.checkpoint(self._sequences[noun])
        return records

    def _batch(self, writer: ArchiveWriter, batch: list[Event], *, commit: bool) -> None:
        drafts = [Draft(event.subject(STREAMS), events.encode(event)) for event in batch]
        for event, record in zip(
            batch, self._append(writer, "events", drafts, STREAMS.cluster_scope(CLUSTER)), strict=True
        ):
            self._newest[record.subject] = record
            self._compiler.fold(event, record.sequence, epoch="bench")
        self._since_state += len(batch)
        if self._since_state >= STATE_EVERY:
            writer.add_state(self._sequences["events"], list(self._newest.values()))
            self._since_state = 0
        found = self._compiler.commit(self._snapshot) if commit else None
        if found is None:
            return
        self._snapshot.apply(found)
        self._compiler.accept()
        self._versions += 1
        subject, payload = STREAMS.snapshot_subject, encode_commit(found)
        self._append(writer, "snapshots", chunked_payload.split(payload, subject, version=found.version), subject)
        self._since_keyframe += len(payload)
        self._commits_since_keyframe += 1
        due = self._since_keyframe >= LIMITS.bytes or self._commits_since_keyframe >= LIMITS.commits
        if due or self._versions == 1:
            subject, whole = STREAMS.keyframe_subject, encode_commit(self._snapshot.keyframe())
            self._append(writer, "keyframes", chunked_payload.split(whole, subject, version=found.version), subject)
            self._since_keyframe = self._commits_since_keyframe = 0


async def _timed(path: Path, ask: Callable[[Timeline], Awaitable[object]]) -> float:
    archive = Archive(path)
    try:
        began = time.perf_counter()
        await ask(Timeline(of_archive(archive)))
        return time.perf_counter() - began
    finally:
        archive.close()


async def _ask(path: Path) -> list[Row]:
    archive = Archive(path)
    timeline = Timeline(of_archive(archive))
    versions = sum(block.count for block in archive.contents.streams["snapshots"])
    places = [versions // 7, versions // 2, versions * 6 // 7, max(1, versions - 3)]
    chosen = [await version_back(timeline, versions - place) for place in places]
    head = await timeline.head()
    archive.close()
    rows: list[Row] = []
    took = [await _timed(path, lambda line, version=version: line.snapshot(version)) for version in chosen]
    rows.append(Row("a past version, the slowest of 4", round(max(took), 2), "s", "<= 2 s"))
    took = [await _timed(path, lambda line, version=version: _why(line, version)) for version in (*chosen, head)]
    rows.append(Row("why at four past versions and the newest, the slowest", round(1e3 * max(took)), "ms", "<= 300 ms"))
    seconds = await _timed(path, lambda line: _diff(line, chosen[1], head))
    rows.append(Row("diff of two versions", round(seconds, 2), "s", "<= 3 s"))
    took = [await _timed(path, lambda line, version=version: _plan(line, version)) for version in (chosen[1], head)]
    rows.append(Row("plan of one traffic target", round(max(took), 2), "s", "<= 1 s"))
    took = [await _timed(path, lambda line: _plan(line, head, whole=True))]
    rows.append(Row("the same, compiling the whole mesh", round(max(took), 2), "s"))
    for verify in (False, True):
        archive = Archive(path)
        replay = Replay(of_archive(archive), verify=verify)
        began = time.perf_counter()
        outcome = await replay.run()
        elapsed = time.perf_counter() - began
        archive.close()
        if outcome.difference is not None or outcome.broken:
            raise RuntimeError(f"the replay differs: {outcome.difference} {outcome.broken}")
        what = "replay with every version compiled and compared" if verify else "replay to the newest version"
        rows.append(Row(what, round(outcome.events / elapsed), "events/s", "" if verify else ">= 20,000"))
    return rows


async def _why(line: Timeline, version: int) -> None:
    await _explain(line, await line.single_proxy_snapshot(version, ASKED))


async def _explain(line: Timeline, snapshot: Snapshot) -> None:
    held = snapshot.views[snapshot.proxies[ASKED].workload_class][CDS]
    name = next(one for one in sorted(held) if one.startswith("outbound"))
    await why(line, snapshot, ASKED, CDS, name)


async def _diff(line: Timeline, old: int, new: int) -> None:
    between(await line.snapshot(old), await line.snapshot(new))


async def _plan(line: Timeline, version: int, *, whole: bool = False) -> None:
    namespace, name = _name(7)
    manifest = {
        "apiVersion": "access.smi-spec.io/v1alpha3",
        "kind": "TrafficTarget",
        "metadata": {"name": "extra", "namespace": namespace},
        "spec": {
            "destination": {"kind": "ServiceAccount", "name": name, "namespace": namespace},
            "sources": [{"kind": "ServiceAccount", "name": "s3", "namespace": "ns3"}],
            "rules": [{"kind": "HTTPRouteGroup", "name": "all"}],
        },
    }
    found = await plan(line, version, [manifest], [], whole=whole)
    if not found.calls.allowed:
        raise RuntimeError("the plan sees no new call")
