"""Namespaces and the MeshConfig, from the log, in memory: what the injector knows about the cluster.

It follows just these two kinds. A new epoch voids what was known before it; what is known stays in use while the log
is away.
"""

from __future__ import annotations

import asyncio
import logging

import msgspec

from services.injector.decision import Namespace
from shared import events, model
from shared.errors import BadInputError, MeshlogError
from shared.eventlog.protocol import EventLog, LogUnavailableError, Record
from shared.membership import MESH_CONFIG
from shared.meshconfig.pods import MeshSpec, read_mesh_spec
from shared.subjects import Streams

_log = logging.getLogger(__name__)
_NAMESPACE = msgspec.json.Decoder(model.Namespace)
_POLICY = msgspec.json.Decoder(model.PolicyObject)
_PAUSE = 0.5


class Membership:
    """The newest state; `run` keeps it so."""

    def __init__(self, log: EventLog, *, streams: Streams, cluster: str, mesh_namespace: str) -> None:
        self.namespaces: dict[str, Namespace] = {}
        self.mesh = MeshSpec()
        self.caught_up = asyncio.Event()
        """Set once the log was read to its end as it was at the start."""
        self._log = log
        self._streams = streams
        self._cluster = cluster
        self._mesh_namespace = mesh_namespace
        self._epoch = ""
        self._changed = asyncio.Event()

    async def changed(self) -> None:
        """Wait for the next change."""
        await self._changed.wait()

    async def run(self) -> None:
        """Read what is there, then follow for ever."""
        start = await self._read()
        self.caught_up.set()
        async with asyncio.TaskGroup() as group:
            for kind in ("Namespace", "MeshConfig"):
                group.create_task(self._follow(self._streams.kind_scope(self._cluster, kind), start))

    def take(self, record: Record) -> None:
        """Fold one record in."""
        if record.epoch != self._epoch:
            self._epoch = record.epoch
            self.namespaces.clear()
            self.mesh = MeshSpec()
        try:
            event = events.read(record)
        except MeshlogError as error:
            # Damaged, or of a newer build: what was known before is a better answer than none.
            _log.error("event %d is left out: %s", record.sequence, error)
            return
        if event.kind == "Namespace":
            self._take_namespace(event)
        elif event.kind == "MeshConfig" and (event.namespace, event.name) == (self._mesh_namespace, MESH_CONFIG):
            self._take_mesh(event)
        changed, self._changed = self._changed, asyncio.Event()
        changed.set()

    async def _read(self) -> int:
        while True:
            try:
                _, last = await self._log.bounds()
                newest = await self._log.last_per_subject(self._streams.cluster_scope(self._cluster))
            except LogUnavailableError:
                await asyncio.sleep(_PAUSE)
                continue
            epoch = newest[-1].epoch if newest else ""
            for record in newest:
                if record.epoch == epoch and record.sequence <= last:
                    self.take(record)
            return last + 1

    async def _follow(self, subjects: str, start: int) -> None:
        async for record in self._log.follow(start=start, subjects=subjects):
            self.take(record)

    def _take_namespace(self, event: events.Event) -> None:
        if event.object is None:
            self.namespaces.pop(event.name, None)
            return
        meta = _NAMESPACE.decode(event.object).metadata
        self.namespaces[event.name] = Namespace(name=event.name, labels=meta.labels, annotations=meta.annotations)

    def _take_mesh(self, event: events.Event) -> None:
        if event.object is None:
            self.mesh = MeshSpec()
            return
        try:
            self.mesh = read_mesh_spec(_POLICY.decode(event.object).spec)
        except BadInputError as error:
            # The last good form stays: new pods are better started as before than not at all.
            _log.error("the MeshConfig is not used: %s", error)
