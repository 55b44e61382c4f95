"""Follows namespaces and the MeshConfig in the log.

`NamespaceFold` is the pure fold of the events of these two kinds. A new epoch clears the state before it. If the log is
unavailable, the state stays in use.
"""

from __future__ import annotations

import msgspec

from services.injector.core.decision import NamespaceMeta
from shared import projected_objects as projected
from shared.eventlog.fold import Epoch
from shared.eventlog.protocol import EventLog, Record
from shared.eventlog.view import LogView
from shared.io.decoding import decode_by
from shared.meshconfig.pods import MeshSpec, read_mesh_spec
from shared.names import MESH_CONFIG
from shared.records import events
from shared.records.subjects import Streams

_NAMESPACE = msgspec.json.Decoder(projected.Namespace)
_POLICY = msgspec.json.Decoder(projected.PolicyObject)
KINDS = ("Namespace", "MeshConfig")


class NamespaceFold:
    """The fold. If an event cannot be used, the last good form of its object stays in force."""

    def __init__(self, *, mesh_namespace: str) -> None:
        self._mesh_namespace = mesh_namespace
        self.namespaces: dict[str, NamespaceMeta] = {}
        self.mesh = MeshSpec()

    def reset(self, _epoch: Epoch) -> None:
        """Clear the state."""
        self.namespaces.clear()
        self.mesh = MeshSpec()

    def fold(self, record: Record) -> bool:
        """Fold the record of an event. Raises `MeshlogError` or `UndecodableError` if it cannot be used."""
        event = events.read(record)
        if event.kind == "Namespace":
            self._fold_namespace(event)
        elif event.kind == "MeshConfig" and (event.namespace, event.name) == (self._mesh_namespace, MESH_CONFIG):
            self.mesh = MeshSpec() if event.object is None else read_mesh_spec(decode_by(_POLICY, event.object).spec)
        return event.object is not None

    def _fold_namespace(self, event: events.Event) -> None:
        if event.object is None:
            self.namespaces.pop(event.name, None)
            return
        meta = decode_by(_NAMESPACE, event.object).metadata
        self.namespaces[event.name] = NamespaceMeta(name=event.name, labels=meta.labels, annotations=meta.annotations)


class NamespaceFollower:
    """The newest state of namespaces and MeshConfig; `run` it as a task."""

    def __init__(self, log: EventLog, *, streams: Streams, cluster: str, mesh_namespace: str) -> None:
        self._state = NamespaceFold(mesh_namespace=mesh_namespace)
        self._view = LogView(
            log,
            self._state,
            name="membership",
            subjects=[streams.kind_scope(cluster, kind) for kind in KINDS],
            streams=streams,
        )
        self.caught_up = self._view.caught_up
        """Set when the log is read to the end that it had at the start."""

    @property
    def namespaces(self) -> dict[str, NamespaceMeta]:
        """Namespaces by name."""
        return self._state.namespaces

    @property
    def mesh(self) -> MeshSpec:
        """The part of the MeshConfig that concerns pods."""
        return self._state.mesh

    async def changed(self) -> None:
        """Wait for the next change."""
        await self._view.changed()

    async def run(self) -> None:
        """Read the log, then follow it for ever."""
        await self._view.run()
