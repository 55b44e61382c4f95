"""Compares the log with the objects in the Kubernetes API: the first half of every proof that a change arrived.

The absence of an event proves nothing: an ingestor that is stopped, late or replaced writes none, and neither does an
update without effect on the projected object. So the states are compared: the object in the API is projected by the
ingestor's own code. If the newest event of the object equals the projection, there is nothing to wait for; else an
event is still to come.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Protocol

import msgspec

from cli.kubernetes.api_client import Api, AppliedObject, Manifest
from services.ingestor.core.kinds import is_followed
from services.ingestor.core.projection import UnreadableObjectError, project
from shared.errors import BadInputError
from shared.eventlog.protocol import Record
from shared.projected_objects import KINDS
from shared.records import events
from shared.records.events import DELETED, Event
from shared.records.subjects import Streams

_LOOK = 0.02
"""Seconds between reads of the log while an event is awaited."""
_ASK = 0.5
"""Seconds between reads of the API, in case another client has changed the object since."""


class LastEvents(Protocol):
    """The part of the event log that this module reads."""

    async def last(self, subject: str) -> Record | None:
        """See `EventLog.last`."""
        ...


class Recorder:
    """Compares one cluster's API with its events in the log."""

    def __init__(self, api: Api, log: LastEvents, streams: Streams, cluster: str, home: str) -> None:
        """`home`: the mesh's own namespace."""
        self._api = api
        self._log = log
        self._streams = streams
        self._cluster = cluster
        self._home = home

    async def sequence(self, applied: Sequence[AppliedObject], dropped: Sequence[Manifest] = ()) -> int:
        """Wait until the log holds all of these as the API has them; returns the sequence of their newest event.

        Returns 0 if none of them has events: some kinds have none, nor has a MeshConfig that is not the mesh's own. If
        another client changes an object meanwhile, its changed state is awaited. Has no deadline of its own.
        """
        manifests = [*(one.manifest for one in applied), *dropped]
        found = [await self._recorded(one) for one in manifests if await self._is_followed(one)]
        return max(found, default=0)

    async def lacks(self, manifests: Sequence[Manifest]) -> list[str]:
        """Which of these objects differ between the log and the API now, without waiting."""
        found: list[str] = []
        for manifest in manifests:
            if not await self._is_followed(manifest):
                continue
            kept = await self._kept(manifest)
            if not self._agree(await self._newest(manifest), kept):
                found.append(_named(manifest))
        return found

    async def _is_followed(self, manifest: Manifest) -> bool:
        """Whether the ingestor writes events of the object."""
        if manifest["kind"] not in KINDS:
            return False
        namespace = await self._api.namespace_of(manifest)
        return is_followed(manifest["kind"], namespace, manifest["metadata"]["name"], mesh_namespace=self._home)

    async def _recorded(self, manifest: Manifest) -> int:
        kept = await self._kept(manifest)
        loop = asyncio.get_running_loop()
        asked = loop.time()
        while True:
            newest = await self._newest(manifest)
            if self._agree(newest, kept):
                return 0 if newest is None else newest[0]
            if loop.time() >= asked + _ASK:
                kept, asked = await self._kept(manifest), loop.time()
            else:
                await asyncio.sleep(_LOOK)

    async def _kept(self, manifest: Manifest) -> Manifest | None:
        """The object in the API now; None if there is none."""
        path = await self._api.path_of(manifest)
        status, answer = await self._api.request("GET", path)
        if status == 404:
            return None
        if status != 200:
            raise BadInputError("api/refused", f"cannot be read back: HTTP {status}", about=_named(manifest))
        return answer

    async def _newest(self, manifest: Manifest) -> tuple[int, Event] | None:
        metadata = manifest["metadata"]
        namespace = await self._api.namespace_of(manifest)
        subject = self._streams.event_subject(self._cluster, manifest["kind"], namespace, metadata["name"])
        record = await self._log.last(subject)
        if record is None:
            return None
        try:
            return record.sequence, events.read(record)
        except events.CorruptEventError:
            return None

    def _agree(self, newest: tuple[int, Event] | None, kept: Manifest | None) -> bool:
        """Whether the newest event of an object equals the projection of the object in the API."""
        event = None if newest is None else newest[1]
        if kept is None:
            return event is None or event.operation == DELETED
        if event is None or event.operation == DELETED:
            return False
        metadata = kept["metadata"]
        if event.uid != metadata["uid"]:
            return False
        if event.resource_version == metadata["resourceVersion"]:
            return True
        try:
            body = msgspec.json.encode(kept)
            projected = project(kept["kind"], body, api_version=kept["apiVersion"], source="api")
        except UnreadableObjectError as error:
            sentence = f"{error.sentence}: the mesh goes on with its last good form, if there is one"
            raise BadInputError("object/unreadable", sentence, about=_named(kept)) from error
        return (
            event.object is not None
            and bytes(event.object) == projected.body
            and (event.withheld, event.why) == (projected.withheld, projected.why)
        )


def _named(manifest: Manifest) -> str:
    metadata = manifest["metadata"]
    prefix = f"{metadata['namespace']}/" if metadata.get("namespace") else ""
    return f"{manifest['kind']} {prefix}{metadata['name']}"
