"""Decodes the API server's answers: pages of lists and lines of watches. Pure.

Only the frame is decoded here; each object stays bytes until its projection, so one undecodable object affects neither
its page nor its watch.
"""

from __future__ import annotations

import msgspec

from services.ingestor.core.observations import KindListed, NamespacedName, ObjectDeleted, ObjectUpdated, Projected
from services.ingestor.core.projection import UnreadableObjectError, project
from services.ingestor.core.reflector import Bookmark, Failure, ListPage, SkippedLine, WatchLine
from shared.io.decoding import UndecodableError, decode, decode_by


class _ListFrameMeta(msgspec.Struct, rename="camel"):
    resource_version: str = ""
    continue_: str | None = msgspec.field(name="continue", default=None)


class _ListFrame(msgspec.Struct):
    metadata: _ListFrameMeta
    items: list[msgspec.Raw] | None = None


class _WatchFrame(msgspec.Struct):
    type: str = ""
    object: msgspec.Raw = msgspec.Raw(b"null")


class _BookmarkObjectMeta(msgspec.Struct, rename="camel"):
    resource_version: str = ""
    annotations: dict[str, str] | None = None


class _BookmarkObject(msgspec.Struct):
    metadata: _BookmarkObjectMeta = msgspec.field(default_factory=_BookmarkObjectMeta)


class _StatusDetails(msgspec.Struct, rename="camel"):
    retry_after_seconds: float | None = None


class _StatusObject(msgspec.Struct):
    code: int | None = None
    reason: str | None = None
    details: _StatusDetails | None = None


_END_OF_LIST = "k8s.io/initial-events-end"

_LIST = msgspec.json.Decoder(_ListFrame)
_LINE = msgspec.json.Decoder(_WatchFrame)
_BOOKMARK = msgspec.json.Decoder(_BookmarkObject)
_STATUS = msgspec.json.Decoder(_StatusObject)


def read_page(
    kind: str, body: bytes, *, api_version: str, only: str = ""
) -> tuple[ListPage, list[UnreadableObjectError]] | Failure:
    """Decode a page; returns it with the errors of its unreadable objects, or a `Failure`.

    `api_version`: of the request. `only`: name of the only object to keep; empty: all.
    """
    try:
        frame = decode_by(_LIST, body)
    except UndecodableError:
        return Failure("malformed list")
    objects: list[Projected] = []
    errors: list[UnreadableObjectError] = []
    for item in frame.items or []:
        try:
            projected = project(kind, item, api_version=api_version, source="list")
        except UnreadableObjectError as error:
            errors.append(error)
            continue
        if not only or projected.name.name == only:
            objects.append(projected)
    unreadable = frozenset(error.name for error in errors if error.name is not None)
    part = KindListed(
        kind=kind,
        resource_version=frame.metadata.resource_version,
        objects=tuple(objects),
        unreadable=unreadable,
        complete=all(error.name is not None for error in errors),
    )
    return ListPage(part, frame.metadata.continue_ or ""), errors


def read_line(
    kind: str, line: bytes, *, api_version: str, only: str = ""
) -> tuple[WatchLine, UnreadableObjectError | None] | Failure:
    """Decode a line of a watch; returns it with the error of its object if that is unreadable, or a `Failure`."""
    try:
        frame = decode_by(_LINE, line)
    except UndecodableError:
        return Failure("malformed line")
    match frame.type:
        case "BOOKMARK":
            return _bookmark(frame.object), None
        case "ERROR":
            return _failure(frame.object)
        case "ADDED" | "MODIFIED" | "DELETED":
            return _object(kind, frame, api_version=api_version, only=only)
        case _:
            return SkippedLine(f"unknown type {frame.type[:40]!r}"), None


def _object(
    kind: str, frame: _WatchFrame, *, api_version: str, only: str
) -> tuple[WatchLine, UnreadableObjectError | None] | Failure:
    try:
        item = project(kind, frame.object, api_version=api_version, source="watch")
    except UnreadableObjectError as error:
        if frame.type != "DELETED" or error.name is None:
            nameless = error.name is None
            skipped = SkippedLine("unreadable object", _version(frame.object), unreadable=error.name, nameless=nameless)
            return skipped, error
        # The contents of a deleted object do not matter.
        return _unreadable_deleted(kind, error.name, frame.object), None
    if only and item.name.name != only:
        return SkippedLine("another object", item.resource_version), None
    if frame.type == "DELETED":
        deleted = ObjectDeleted(
            kind=kind, name=item.name, uid=item.uid, resource_version=item.resource_version, origin=item.origin
        )
        return deleted, None
    return ObjectUpdated(item), None


class _DeletedObjectMeta(msgspec.Struct, rename="camel"):
    uid: str = ""
    resource_version: str = ""


class _DeletedObject(msgspec.Struct):
    metadata: _DeletedObjectMeta


def _unreadable_deleted(kind: str, name: NamespacedName, payload: msgspec.Raw) -> ObjectDeleted:
    try:
        meta = decode(_DeletedObject, payload).metadata
    except UndecodableError:
        meta = _DeletedObjectMeta()
    return ObjectDeleted(kind=kind, name=name, uid=meta.uid, resource_version=meta.resource_version)


def _bookmark(payload: msgspec.Raw) -> Bookmark:
    try:
        meta = decode_by(_BOOKMARK, payload).metadata
    except UndecodableError:
        return Bookmark("")
    return Bookmark(meta.resource_version, ends_list=(meta.annotations or {}).get(_END_OF_LIST) == "true")


def _version(payload: msgspec.Raw) -> str:
    try:
        return decode_by(_BOOKMARK, payload).metadata.resource_version
    except UndecodableError:
        return ""


def failure_of(status: int, body: bytes, retry_after: float) -> Failure:
    """Returns the failure in an HTTP answer that is not a success. `retry_after`: seconds, of its header."""
    try:
        answer = decode_by(_STATUS, body)
    except UndecodableError:
        answer = _StatusObject()
    seconds = (answer.details.retry_after_seconds if answer.details else None) or 0.0
    return Failure(f"http {status}", status=status, retry_after=max(retry_after, seconds))


def _failure(payload: msgspec.Raw) -> Failure:
    try:
        answer = decode_by(_STATUS, payload)
    except UndecodableError:
        return Failure("error line")
    code = 410 if answer.reason in ("Expired", "Gone") else answer.code or 0
    seconds = (answer.details.retry_after_seconds if answer.details else None) or 0.0
    return Failure(f"error line {code or answer.reason or 'without code'}", status=code, retry_after=seconds)
