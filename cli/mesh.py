"""A running embedded mesh as verbs see it: its API, its log, its pods. `cli.embedded` starts, finds and ends it."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import msgspec

from cli.api import Api, Applied, Manifest
from cli.pods import PodCommand
from cli.rollout import Rollout, Tracker
from deploy.devcluster.launch import control
from shared import events
from shared.errors import MeshlogError
from shared.eventlog.protocol import EventLog, Record
from shared.model import KINDS
from shared.subjects import Streams


class NotArrivedError(MeshlogError):
    """A change was not acknowledged by every proxy concerned in time."""


class Arrival(msgspec.Struct, frozen=True):
    """How a change reached the proxies."""

    rollout: Rollout
    milliseconds: float
    """From the API's (last) answer to the last acknowledgement; 0 if no proxy was concerned."""


class Mesh:
    """A handle on a running mesh. `follow` must run for arrivals to be seen."""

    def __init__(
        self, *, api: Api, events_log: EventLog, status_log: EventLog, streams: Streams, cluster: str, state_dir: Path
    ) -> None:
        self.api = api
        self.tracker = Tracker()
        self._events = events_log
        self._logs = (events_log, status_log)
        self._streams = streams
        self._cluster = cluster
        self._state_dir = state_dir
        self._news = asyncio.Event()
        self.ends: tuple[int, int] = (0, 0)
        """Last sequences of commits and of statuses when following began."""
        self.reached: tuple[int, int] = (0, 0)
        """How far following has come in each."""

    async def caught_up(self, *, within: float) -> None:
        """Wait until all is folded that was there when following began; raises `NotArrivedError` if it takes longer."""
        try:
            async with asyncio.timeout(within):
                while not all(here >= end for here, end in zip(self.reached, self.ends, strict=True)):
                    self._news.clear()
                    await self._news.wait()
        except TimeoutError as error:
            raise NotArrivedError("log/slow", f"the log could not be read within {within:g} s") from error

    def wake(self) -> None:
        """Whoever feeds the tracker says that there is news."""
        self._news.set()

    async def apply(self, manifests: Sequence[Manifest]) -> list[Applied]:
        """Apply objects one by one, in order."""
        return [await self.api.apply(manifest) for manifest in manifests]

    async def change(
        self, *, put: Sequence[Manifest] = (), drop: Sequence[Manifest] = (), within: float = 15.0
    ) -> Arrival:
        """Apply and delete objects, and wait until every proxy concerned has acknowledged all of it."""
        before = self.tracker.snapshot.version
        # Only what can change a proxy's configuration has an event to wait for: a Deployment has none, its pods have.
        applied = [one for one in await self.apply(put) if one.kind in KINDS]
        for manifest in drop:
            await self.api.delete(manifest)
        answered = time.time_ns()
        try:
            async with asyncio.timeout(within):
                sequences = [await self._sequence_applied(one) for one in applied]
                sequences += [await self._sequence_deleted(manifest) for manifest in drop if manifest["kind"] in KINDS]
                return await self._arrival(before, max(sequences, default=before), answered)
        except TimeoutError:
            pass
        rollout = self.tracker.rollout(after=before, until=self.tracker.snapshot.version)
        missing = ", ".join([*rollout.refusals, *rollout.waiting]) or "the change is in no version yet"
        raise NotArrivedError("rollout/timeout", f"not acknowledged within {within:g} s: {missing}")

    async def _arrival(self, before: int, sequence: int, answered: int) -> Arrival:
        while True:
            self._news.clear()
            version = self.tracker.version_of(sequence)
            if version is not None:
                rollout = self.tracker.rollout(after=before, until=version)
                if rollout.complete:
                    elapsed = max(0, rollout.last_ack - answered) / 1e6 if rollout.last_ack else 0.0
                    return Arrival(rollout=rollout, milliseconds=round(elapsed, 1))
            await self._news.wait()

    async def written(self, applied: Sequence[Applied]) -> int:
        """The sequence of the newest event of objects that were applied; 0 if none of them has events."""
        return max([await self._sequence_applied(one) for one in applied if one.kind in KINDS], default=0)

    async def _sequence_applied(self, applied: Applied) -> int:
        """The sequence of the event of this resource version, or of a later one."""
        subject = self._streams.event_subject(self._cluster, applied.kind, applied.namespace, applied.name)
        first = await self._newest(subject, lambda event: event.uid == applied.uid)
        # An update that changed nothing that matters has no event of its own: a moment, then what is there counts.
        if events.read(first).resource_version == applied.resource_version:
            return first.sequence
        await asyncio.sleep(0.25)
        return (await self._newest(subject, lambda event: event.uid == applied.uid)).sequence

    async def _sequence_deleted(self, manifest: Manifest) -> int:
        metadata: Mapping[str, str] = manifest["metadata"]
        subject = self._streams.event_subject(
            self._cluster, manifest["kind"], metadata.get("namespace", ""), metadata["name"]
        )
        return (await self._newest(subject, lambda event: event.operation == events.DELETED)).sequence

    async def record(self, subject: str) -> Record:
        """The newest record of a subject of the events or of the statuses; raises `LookupError` if there is none."""
        for log in self._logs:
            if (found := await log.last(subject)) is not None:
                return found
        raise LookupError(subject)

    async def _newest(self, subject: str, fits: Callable[[events.Event], bool]) -> Record:
        while True:
            record = await self._events.last(subject)
            if record is not None and fits(events.read(record)):
                return record
            await asyncio.sleep(0.02)

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
        """End the pod's first container with SIGKILL, from outside, as a crash would."""
        request = {"op": "kill", "namespace": namespace, "pod": pod, "container": "", "signal": 9}
        await asyncio.to_thread(lambda: list(control.ask(self._state_dir, request)))
