"""A running embedded mesh for verbs: API, log and pods. `cli.embedded.lifecycle` starts, finds and stops it."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncGenerator, Sequence
from pathlib import Path

import msgspec

from cli.arrival.recorded import Recorder
from cli.arrival.tracker import Rollout, Tracker
from cli.embedded import lifecycle
from cli.embedded.pod_commands import PodCommand
from cli.kubernetes import kubeconfig
from cli.kubernetes.api_client import Api, AppliedObject, Manifest, connect
from deploy.devcluster.launch import control
from deploy.install.profile import Profile
from shared.errors import MeshlogError
from shared.eventlog.fold import Epoch
from shared.eventlog.jetstream.quiet_logging import quiet_logging
from shared.eventlog.protocol import EventLog, Record
from shared.eventlog.view import Begin, LogView
from shared.records import chunked_payload
from shared.records.commits import CommitFold
from shared.records.proxy_status import status_in
from shared.records.snapshot import Commit, decode_commit
from shared.records.subjects import Streams
from shared.streams.jetstream import JetStreamLogs


class NotArrivedError(MeshlogError):
    """A change was not acknowledged by every proxy concerned in time."""


class Arrival(msgspec.Struct, frozen=True):
    """How a change reached the proxies."""

    rollout: Rollout
    milliseconds: float
    """From the first write to the API to the last acknowledgement; 0 if no proxy was concerned."""


class AttachedMesh:
    """A handle on a running mesh. Arrivals are only detected while its views run (`attached`)."""

    def __init__(
        self, *, api: Api, events_log: EventLog, status_log: EventLog, streams: Streams, cluster: str, state_dir: Path
    ) -> None:
        self.api = api
        self.tracker = Tracker()
        self.recorder = Recorder(api, events_log, streams, cluster, Profile().namespace)
        self._logs = (events_log, status_log)
        self._state_dir = state_dir
        self._changed = asyncio.Event()
        self.views: tuple[LogView, ...] = ()
        """Views of the log that feed the tracker."""

    async def caught_up(self, *, within: float) -> None:
        """Wait until every view has folded the log as of the start; raises `NotArrivedError` after `within` s."""
        try:
            async with asyncio.timeout(within):
                for view in self.views:
                    await view.caught_up.wait()
        except TimeoutError as error:
            raise NotArrivedError("log/slow", f"the log could not be read within {within:g} s") from error

    def wake(self) -> None:
        """Wake waiters after the tracker has taken a record; called by the views that feed it."""
        self._changed.set()

    async def apply(self, manifests: Sequence[Manifest]) -> list[AppliedObject]:
        """Apply objects one by one, in order."""
        return [await self.api.apply(manifest) for manifest in manifests]

    async def change(
        self, *, put: Sequence[Manifest] = (), drop: Sequence[Manifest] = (), within: float = 15.0
    ) -> Arrival:
        """Apply and delete objects, and wait until every proxy concerned has acknowledged all of it."""
        before, began = self.tracker.snapshot.version, time.time_ns()
        applied = await self.apply(put)
        for manifest in drop:
            await self.api.delete(manifest)
        try:
            async with asyncio.timeout(within):
                sequence = await self.recorder.sequence(applied, drop)
                return await self._arrival(before, max(sequence, before), began)
        except TimeoutError:
            pass
        rollout = self.tracker.rollout(after=before, until=self.tracker.snapshot.version)
        missing = ", ".join([*rollout.refusals, *rollout.waiting]) or "the change is in no version yet"
        raise NotArrivedError("rollout/timeout", f"not acknowledged within {within:g} s: {missing}")

    async def _arrival(self, before: int, sequence: int, began: int) -> Arrival:
        while True:
            self._changed.clear()
            version = self.tracker.version_of(sequence)
            if version is not None:
                rollout = self.tracker.rollout(after=before, until=version)
                if rollout.complete:
                    elapsed = max(0, rollout.last_ack - began) / 1e6 if rollout.last_ack else 0.0
                    return Arrival(rollout=rollout, milliseconds=round(elapsed, 1))
            await self._changed.wait()

    async def record(self, subject: str) -> Record:
        """The newest record of a subject of the events or of the statuses; raises `LookupError` if there is none."""
        for log in self._logs:
            if (found := await log.last(subject)) is not None:
                return found
        raise LookupError(subject)

    async def pod(self, namespace: str, app: str) -> Manifest:
        """The one pod with the label `app`."""
        listing = await self.api.get(f"/api/v1/namespaces/{namespace}/pods", params={"labelSelector": f"app={app}"})
        live = [pod for pod in listing["items"] if not pod["metadata"].get("deletionTimestamp")]
        if not live:
            raise MeshlogError("demo/pod", f"no pod with label app={app}", about=namespace)
        return live[0]

    async def start(self, namespace: str, app: str, argv: Sequence[str]) -> PodCommand:
        """Start a command inside the pod with the label `app`."""
        pod = await self.pod(namespace, app)
        return await PodCommand.start(self._state_dir, namespace, pod["metadata"]["name"], argv)

    async def kill(self, namespace: str, pod: str) -> None:
        """Kill the pod's first container with SIGKILL, from outside, as a crash would."""
        request = {"op": "kill", "namespace": namespace, "pod": pod, "container": "", "signal": 9}
        await asyncio.to_thread(lambda: list(control.ask(self._state_dir, request)))


@contextlib.asynccontextmanager
async def attached() -> AsyncGenerator[AttachedMesh]:
    """A handle on the running mesh, with its commits and statuses followed while it is open."""
    found = lifecycle.running()
    state = lifecycle.state_directory()
    streams = Streams()
    # The connection retries for as long as the log is away; each wait for it has its own deadline and error.
    with quiet_logging():
        logs = JetStreamLogs.connect(lifecycle.log_access(found), streams)
        try:
            async with (
                connect(kubeconfig.read(state / lifecycle.KUBECONFIG)) as api,
                asyncio.timeout(lifecycle.READY_WITHIN) as limit,
            ):
                opened = [
                    await lifecycle.existing(logs, name)
                    for name in (streams.events, streams.snapshots, streams.keyframes, streams.status)
                ]
                limit.reschedule(None)
                events_log, snapshots, keyframes, status = opened
                mesh = AttachedMesh(
                    api=api,
                    events_log=events_log,
                    status_log=status,
                    streams=streams,
                    cluster=lifecycle.CLUSTER,
                    state_dir=state,
                )
                mesh.views = (_commits(mesh, snapshots, keyframes, streams), _statuses(mesh, status, streams))
                tasks = [asyncio.create_task(view.run()) for view in mesh.views]
                try:
                    await mesh.caught_up(within=lifecycle.READY_WITHIN)
                    yield mesh
                finally:
                    for task in tasks:
                        task.cancel()
                    await asyncio.gather(*tasks, return_exceptions=True)
        finally:
            await logs.close()


def _commits(mesh: AttachedMesh, snapshots: EventLog, keyframes: EventLog, streams: Streams) -> LogView:
    """The view of the commits that feeds the tracker, from the newest keyframe on."""

    def take(commit: Commit) -> None:
        mesh.tracker.take_commit(commit)
        mesh.wake()

    commits = CommitFold(take)

    async def seed() -> None:
        newest = await chunked_payload.newest(keyframes, streams.keyframe_subject)
        keyframe = decode_commit(newest[1]) if newest is not None else None
        if keyframe is not None and keyframe.version > mesh.tracker.snapshot.version:
            take(keyframe)
            commits.begin(keyframe.version)
        else:
            commits.begin()

    return LogView(
        snapshots,
        commits,
        name="commits",
        subjects=(streams.snapshot_subject,),
        streams=streams,
        begin=Begin.FIRST,
        seed=seed,
    )


def _statuses(mesh: AttachedMesh, status: EventLog, streams: Streams) -> LogView:
    """The view of the proxies' statuses that feeds the tracker."""
    return LogView(status, _StatusFold(mesh, streams), name="statuses", subjects=(streams.all_status,), streams=streams)


class _StatusFold:
    def __init__(self, mesh: AttachedMesh, streams: Streams) -> None:
        self._mesh = mesh
        self._streams = streams

    def reset(self, _epoch: Epoch) -> None:
        """Do nothing: statuses are not chained."""

    def fold(self, record: Record) -> bool:
        """Take a status; one that cannot be decoded is skipped."""
        found = status_in(record, self._streams)
        if found is None:
            return False
        self._mesh.tracker.take_status(found)
        self._mesh.wake()
        return found.connected
