"""Lists (paged) and watches, encoded for clients.

Each object is encoded once per API version, however many clients read it. Later pages of a list are served from a
snapshot taken with the first page.
"""

from __future__ import annotations

import asyncio
import base64
import contextlib
import secrets
import time
from collections import OrderedDict
from collections.abc import AsyncGenerator, Callable, Iterable, Iterator
from typing import Any

import msgspec

from deploy.devcluster.apiserver.kinds.kind_registry import KindVersion, ResourceKind
from deploy.devcluster.apiserver.object_store import JournalEntry, Store, StoredObject
from deploy.devcluster.apiserver.read import table_rows
from deploy.devcluster.apiserver.selectors import Matches
from deploy.devcluster.apiserver.status_errors import (
    StatusCause,
    StatusError,
    bad_request,
    expired,
    invalid,
)
from shared.io.decoding import decode

_SNAPSHOTS, _SNAPSHOT_SECONDS = 32, 300.0
_BATCH = 64 * 1024
"""Bytes of watch events that are collected into one write."""


class ObjectForm(msgspec.Struct, frozen=True):
    """The form in which a client requests objects."""

    kind: str = ""
    """`Table`, `PartialObjectMetadata`, or empty for whole objects."""
    include: str = "Metadata"
    """The object in a table row: `None`, `Metadata` or `Object`."""


class ListOptions(msgspec.Struct, frozen=True):
    """Selects objects of one kind for a list or a watch."""

    kind: ResourceKind
    version: KindVersion
    namespace: str = ""
    matches: Matches | None = None
    form: ObjectForm = ObjectForm()

    @property
    def api_version(self) -> str:
        """`apps/v1`."""
        return self.kind.api_version(self.version.name)

    def wants(self, stored: StoredObject | None) -> bool:
        """True if an object is selected."""
        return stored is not None and (self.matches is None or self.matches(stored.obj))


class _ListSnapshot(msgspec.Struct, frozen=True):
    revision: int
    items: list[StoredObject]
    until: float


class ListWatch:
    """Serves lists and watches from the store."""

    def __init__(
        self,
        store: Store,
        clock: Callable[[], float],
        *,
        bookmark_seconds: float = 60.0,
        streaming_lists: bool = True,
    ) -> None:
        """`streaming_lists`: whether watches may begin with all objects (WatchList, Kubernetes 1.32 or newer)."""
        self._store = store
        self._clock = clock
        self._bookmark_seconds = bookmark_seconds
        self._streaming_lists = streaming_lists
        self._snapshots: OrderedDict[str, _ListSnapshot] = OrderedDict()

    # --- lists ----------------------------------------------------------------------------------------------------

    def list(self, query: ListOptions, *, limit: int, token: str, revision: str, match: str) -> bytes:
        """One page as JSON. Raises 400 and 410."""
        if token:
            name, start, found, at = self._resume(token)
        else:
            self.check_revision(query, revision, match)
            name, start, at = "", 0, self._store.revision
            found = self._store.items(query.kind.resource, query.namespace)
            if query.matches is not None:
                found = [stored for stored in found if query.wants(stored)]
        page = found[start : start + limit] if limit else found[start:]
        metadata: dict[str, Any] = {"resourceVersion": str(at)}
        left = len(found) - start - len(page)
        if left:
            metadata["continue"] = self._keep(name, start + len(page), found, at)
            metadata["remainingItemCount"] = left
        return self._render(query, page, metadata)

    def _render(self, query: ListOptions, page: list[StoredObject], metadata: dict[str, Any]) -> bytes:
        if query.form.kind == "Table":
            now = self._clock()
            rows = [table_rows.row(query.version, stored.obj, now, query.form.include) for stored in page]
            return msgspec.json.encode(table_rows.table(query.version, rows, metadata))
        if query.form.kind:
            head = {"kind": "PartialObjectMetadataList", "apiVersion": "meta.k8s.io/v1", "metadata": metadata}
            return msgspec.json.encode({**head, "items": [table_rows.partial(stored.obj) for stored in page]})
        version = query.api_version
        head = {"kind": f"{query.kind.kind}List", "apiVersion": version, "metadata": metadata}
        items = b",".join([stored.encoded(version) for stored in page])
        return msgspec.json.encode(head)[:-1] + b',"items":[' + items + b"]}"

    def check_revision(self, query: ListOptions, revision: str, match: str) -> None:
        """Raises 400, 410 or 504 if a list at this resource version cannot be served."""
        if match and not revision:
            raise bad_request("resourceVersionMatch is forbidden unless resourceVersion is provided")
        if match not in {"", "Exact", "NotOlderThan"}:
            raise bad_request(f'resourceVersionMatch: Unsupported value: "{match}"')
        wanted = number(revision)
        self._refuse_future(wanted)
        if match == "Exact" and wanted != self._store.revision:
            journal = self._store.journal(query.kind.resource)
            if journal.position(wanted) != journal.end:
                raise expired(f"The provided resource version {wanted} is too old for an exact list.")

    def _refuse_future(self, revision: int) -> None:
        if revision > self._store.revision:
            raise StatusError(
                504,
                "Timeout",
                f"Too large resource version: {revision}, current: {self._store.revision}",
                details={"causes": [{"reason": "ResourceVersionTooLarge", "message": "Too large resource version"}]},
                wait=1,
            )

    def _keep(self, name: str, start: int, found: list[StoredObject], revision: int) -> str:
        now = time.monotonic()
        if name not in self._snapshots:
            name = secrets.token_hex(8)
            self._snapshots[name] = _ListSnapshot(revision, found, now + _SNAPSHOT_SECONDS)
        for old in [key for key, one in self._snapshots.items() if one.until < now]:
            del self._snapshots[old]
        while len(self._snapshots) > _SNAPSHOTS:
            self._snapshots.popitem(last=False)
        return base64.urlsafe_b64encode(msgspec.json.encode([name, start])).decode()

    def _resume(self, token: str) -> tuple[str, int, list[StoredObject], int]:
        try:
            name, start = decode(tuple[str, int], base64.urlsafe_b64decode(token))
        except ValueError as error:
            raise bad_request("continue key is not valid") from error
        snapshot = self._snapshots.get(name)
        if snapshot is None or snapshot.until < time.monotonic() or start < 0:
            raise expired(
                "The provided continue parameter is too old to display a consistent list result. You must start a new "
                "list without the continue parameter."
            )
        return name, start, snapshot.items, snapshot.revision

    # --- watches --------------------------------------------------------------------------------------------------

    def watch(
        self, query: ListOptions, *, revision: str, bookmarks: bool, seconds: float, initial: bool | None
    ) -> AsyncGenerator[bytes]:
        """Lines of a watch, several at a time, until it times out. Raises 400, 422, 504 before the first line."""
        if initial is not None and not self._streaming_lists:
            why = "sendInitialEvents is forbidden for watch unless the WatchList feature gate is enabled"
            cause = StatusCause("FieldValueForbidden", "sendInitialEvents", f"Forbidden: {why}")
            raise invalid("ListOptions", "meta.k8s.io", "", [cause])
        wanted = number(revision)
        self._refuse_future(wanted)
        return self._watch(query, wanted, seconds, bookmarks=bookmarks, initial=initial)

    async def _watch(
        self, query: ListOptions, wanted: int, seconds: float, *, bookmarks: bool, initial: bool | None
    ) -> AsyncGenerator[bytes]:
        journal = self._store.journal(query.kind.resource)
        lines = _WatchLines(query, self._clock)
        everything = initial if initial is not None else not wanted
        position = journal.end if everything else journal.position(wanted)
        if position is None:
            yield _error(expired(f"too old resource version: {wanted} ({journal.floor})"))
            return
        if everything:
            # The list is taken at once and sent in pieces: later changes follow it.
            start, stored = self._store.revision, self._store.items(query.kind.resource, query.namespace)
            lines.extend(("ADDED", one) for one in stored if query.wants(one))
            if initial and bookmarks:
                lines.bookmark(start, end_of_list=True)
        clock = asyncio.get_running_loop().time
        deadline = clock() + seconds
        while True:
            changes = journal.read(position)
            if changes is None:
                yield _error(expired(f"too old resource version ({journal.floor})"))
                return
            position += len(changes)
            for change in changes:
                lines.change(change)
            # All changes are sent. After an idle time, and before the end, a bookmark confirms the position.
            left = deadline - clock()
            if not lines.pending and bookmarks and journal.end == position and lines.idle(self._bookmark_seconds, left):
                lines.bookmark(self._store.revision)
            for piece in lines.take():
                yield piece
            if left <= 0:
                return
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(max(0.0, min(left, self._bookmark_seconds))):
                    await journal.more(position)


def number(revision: str) -> int:
    """Parse a resource version; empty is 0. Raises 400."""
    if revision and not (revision.isascii() and revision.isdigit() and len(revision) < 20):
        raise bad_request(f'Invalid value: "{revision}": strconv.ParseUint: parsing "{revision}": invalid syntax')
    return int(revision or 0)


def _error(refusal: StatusError) -> bytes:
    return msgspec.json.encode({"type": "ERROR", "object": refusal.body}) + b"\n"


class _WatchLines:
    """Encoded events that wait to be sent to one client."""

    def __init__(self, query: ListOptions, clock: Callable[[], float]) -> None:
        self._query = query
        self._clock = clock
        self._parts: list[bytes] = []
        self._headed = False
        self._sent = time.monotonic()

    @property
    def pending(self) -> bool:
        return bool(self._parts)

    def idle(self, seconds: float, left: float) -> bool:
        """True if nothing was sent for about `seconds`, or the watch ends now."""
        return left <= 0 or time.monotonic() - self._sent >= seconds * 0.9

    def take(self) -> Iterator[bytes]:
        """Takes the collected events, in pieces of about `_BATCH` bytes."""
        parts, self._parts = self._parts, []
        piece: list[bytes] = []
        size = 0
        for part in parts:
            piece.append(part)
            size += len(part)
            if size >= _BATCH:
                yield b"".join(piece)
                piece, size = [], 0
        if piece:
            yield b"".join(piece)
        if parts:
            self._sent = time.monotonic()

    def extend(self, events: Iterable[tuple[str, StoredObject]]) -> None:
        for event, stored in events:
            self.add(event, stored)

    def change(self, change: JournalEntry) -> None:
        """Add a change as the client's selector sees it: an object that matches only now is ADDED."""
        query = self._query
        if query.namespace and change.key[0] != query.namespace:
            return
        if query.matches is None:
            self.add(change.type, change.stored)
            return
        was = query.wants(change.previous)
        now = change.type != "DELETED" and query.wants(change.stored)
        if now:
            self.add("MODIFIED" if was else "ADDED", change.stored)
        elif was:
            self.add("DELETED", change.stored)

    def add(self, event: str, stored: StoredObject) -> None:
        self._parts.append(b'{"type":"' + event.encode() + b'","object":' + self._object(stored) + b"}\n")

    def _object(self, stored: StoredObject) -> bytes:
        form = self._query.form
        if form.kind == "Table":
            rows = [table_rows.row(self._query.version, stored.obj, self._clock(), form.include)]
            metadata = {"resourceVersion": str(stored.revision)}
            made = table_rows.table(self._query.version, rows, metadata, head=not self._headed)
            self._headed = True
            return msgspec.json.encode(made)
        if form.kind:
            return msgspec.json.encode(table_rows.partial(stored.obj))
        return stored.encoded(self._query.api_version)

    def bookmark(self, revision: int, *, end_of_list: bool = False) -> None:
        metadata: dict[str, Any] = {"resourceVersion": str(revision), "creationTimestamp": None}
        if end_of_list:
            metadata["annotations"] = {"k8s.io/initial-events-end": "true"}
        kind, version = self._query.kind.kind, self._query.api_version
        if self._query.form.kind:
            kind, version = self._query.form.kind, "meta.k8s.io/v1"
        made: dict[str, Any] = {"kind": kind, "apiVersion": version, "metadata": metadata}
        if kind == "Table":
            made |= {"columnDefinitions": None, "rows": []}
        self._parts.append(msgspec.json.encode({"type": "BOOKMARK", "object": made}) + b"\n")
