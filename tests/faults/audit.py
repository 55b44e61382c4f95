"""Is everything in the log that is in the cluster, once, in an unbroken chain? Asked after each fault.

With the ingestor's own pure parts: what a list of each kind would still have to write is what was lost.
"""

from __future__ import annotations

from typing import Any

import msgspec

from cli.embedded.lifecycle import CLUSTER
from cli.kubernetes.api_client import Api
from services.ingestor.core.kinds import WatchedKind, kinds
from services.ingestor.core.log_diff import KnownObject, compare
from services.ingestor.core.object_index import ObjectIndex
from services.ingestor.core.observations import KindListed, NamespacedName
from services.ingestor.core.projection import project
from shared.eventlog.chain import ChainVerifier, checkpoint_at
from shared.eventlog.protocol import ChainBrokenError
from shared.records import events
from shared.records.subjects import Streams
from shared.streams.jetstream import JetStreamLogs


class Verdict(msgspec.Struct, frozen=True):
    """What was found."""

    events: int
    """Records of the cluster that the log holds."""
    epochs: int
    """How often the log was begun anew."""
    lost: tuple[str, ...]
    """Objects of the cluster that the log lacks, a line each."""
    doubled: tuple[str, ...]
    """Records equal to the record before them of the same object, in one epoch."""
    end: int
    """Sequence of the last record."""

    @property
    def clean(self) -> bool:
        """Nothing lost, nothing doubled."""
        return not self.lost and not self.doubled


async def audit(api: Api, logs: JetStreamLogs, namespace: str) -> Verdict:
    """Read the whole log and the whole cluster, and compare."""
    streams = Streams()
    log = logs.existing(streams.events)
    verifier, index = ChainVerifier(), ObjectIndex()
    count = epochs = end = 0
    resumed = 0  # the first record after the newest break: earlier records may have been reverted in between
    broken = ""
    doubled: list[str] = []
    async for record in log.read(subjects=streams.cluster_scope(CLUSTER)):
        count, end = count + 1, record.sequence
        try:
            begins = verifier.fold(record)
        except ChainBrokenError as error:
            # As every reader does: a broken chain is void until the epoch that begins after it.
            verifier, broken, resumed = ChainVerifier(checkpoint_at(record)), str(error), record.sequence
            continue
        if begins:
            epochs, broken = epochs + 1, ""
            index.clear()
        event = events.decode(record.payload)
        before = _newest(index, event)
        index.fold(record)
        now = _newest(index, event)
        if before is None or now is None or before.sequence < resumed:
            continue
        if (before.uid, before.digest) == (now.uid, now.digest):
            doubled.append(f"{record.sequence} {record.subject} says what {before.sequence} said")
    missing = broken or verifier.headless
    lost = [missing] if missing else []
    lost += [line for kind in kinds(mesh_namespace=namespace) for line in await _missing(api, kind, index)]
    return Verdict(events=count, epochs=epochs, lost=tuple(lost), doubled=tuple(doubled), end=end)


def _newest(index: ObjectIndex, event: events.Event) -> KnownObject | None:
    return index.get(event.kind, NamespacedName(namespace=event.namespace, name=event.name))


async def _missing(api: Api, kind: WatchedKind, index: ObjectIndex) -> list[str]:
    version = kind.version
    if not version:
        status, group = await api.request("GET", f"/apis/{kind.group}")
        if status != 200:
            return []
        version = group["preferredVersion"]["version"]
    status, listing = await api.request("GET", kind.path(version))
    if status != 200:
        return []
    api_version = f"{kind.group}/{version}" if kind.group else version
    found: list[dict[str, Any]] = [one for one in listing["items"] if kind.object_name in ("", one["metadata"]["name"])]
    listed = KindListed(
        kind=kind.name,
        # Newer than everything, or it would spare what it does not know.
        resource_version=str(1 << 62),
        objects=tuple(
            project(kind.name, msgspec.json.encode(one), api_version=api_version, source="list") for one in found
        ),
        confirming=True,
    )
    return [str(change)[:300] for change in compare(index.objects(kind.name), listed).changes]
