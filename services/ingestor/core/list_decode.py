"""Reading what the API server sends: pages of lists and lines of watches. Pure.

Only the frame is decoded here; each object stays bytes until its projection, so one poisoned object spoils neither
its page nor its stream.
"""

from __future__ import annotations

import msgspec

from services.ingestor.core.observations import ObjectName, Projected, Vanished
from services.ingestor.core.projection import UnreadableObjectError, project
from services.ingestor.core.reflector import Bookmark, Changed, Failure, Line, Page, Removed, Skipped
from shared.io.decoding import UndecodableError, decode, decode_by


class _ListMeta(msgspec.Struct, rename="camel"):
    resource_version: str = ""
    continue_: str | None = msgspec.field(name="continue", default=None)


class _List(msgspec.Struct):
    metadata: _ListMeta
    items: list[msgspec.Raw] | None = None


class _Line(msgspec.Struct):
    type: str = ""
    object: msgspec.Raw = msgspec.Raw(b"null")


class _BookmarkMeta(msgspec.Struct, rename="camel"):
    resource_version: str = ""
    annotations: dict[str, str] | None = None


class _Bookmark(msgspec.Struct):
    metadata: _BookmarkMeta = msgspec.field(default_factory=_BookmarkMeta)


class _Details(msgspec.Struct, rename="camel"):
    retry_after_seconds: float | None = None


class _Status(msgspec.Struct):
    code: int | None = None
    reason: str | None = None
    details: _Details | None = None


_END_OF_LIST = "k8s.io/initial-events-end"

_LIST = msgspec.json.Decoder(_List)
_LINE = msgspec.json.Decoder(_Line)
_BOOKMARK = msgspec.json.Decoder(_Bookmark)
_STATUS = msgspec.json.Decoder(_Status)


def read_page(
    kind: str, body: bytes, *, api_version: str, only: str = ""
) -> tuple[Page, list[UnreadableObjectError]] | Failure:
    """A page, and what in it could not be read. `only`: the one name that counts."""
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
    page = Page(
        resource_version=frame.metadata.resource_version,
        objects=tuple(objects),
        unreadable=unreadable,
        complete=all(error.name is not None for error in errors),
        continue_token=frame.metadata.continue_ or "",
    )
    return page, errors


def read_line(
    kind: str, line: bytes, *, api_version: str, only: str = ""
) -> tuple[Line, UnreadableObjectError | None] | Failure:
    """A line of a watch, and the object in it that could not be read, if so."""
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
            return Skipped(f"unknown type {frame.type[:40]!r}"), None


def _object(
    kind: str, frame: _Line, *, api_version: str, only: str
) -> tuple[Line, UnreadableObjectError | None] | Failure:
    try:
        item = project(kind, frame.object, api_version=api_version, source="watch")
    except UnreadableObjectError as error:
        if frame.type != "DELETED" or error.name is None:
            nameless = error.name is None
            skipped = Skipped("unreadable object", _version(frame.object), unreadable=error.name, nameless=nameless)
            return skipped, error
        # What it was does not matter any more; that it is gone does.
        return Removed(_vanished(kind, error.name, frame.object)), None
    if only and item.name.name != only:
        return Skipped("another object", item.resource_version), None
    if frame.type == "DELETED":
        fact = Vanished(
            kind=kind, name=item.name, uid=item.uid, resource_version=item.resource_version, origin=item.origin
        )
        return Removed(fact), None
    return Changed(item), None


class _GoneMeta(msgspec.Struct, rename="camel"):
    uid: str = ""
    resource_version: str = ""


class _Gone(msgspec.Struct):
    metadata: _GoneMeta


def _vanished(kind: str, name: ObjectName, payload: msgspec.Raw) -> Vanished:
    try:
        meta = decode(_Gone, payload).metadata
    except UndecodableError:
        meta = _GoneMeta()
    return Vanished(kind=kind, name=name, uid=meta.uid, resource_version=meta.resource_version)


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
    """What an HTTP answer that is no success means."""
    try:
        told = decode_by(_STATUS, body)
    except UndecodableError:
        told = _Status()
    seconds = (told.details.retry_after_seconds if told.details else None) or 0.0
    return Failure(f"http {status}", status=status, retry_after=max(retry_after, seconds))


def _failure(payload: msgspec.Raw) -> Failure:
    try:
        told = decode_by(_STATUS, payload)
    except UndecodableError:
        return Failure("error line")
    code = 410 if told.reason in ("Expired", "Gone") else told.code or 0
    seconds = (told.details.retry_after_seconds if told.details else None) or 0.0
    return Failure(f"error line {code or told.reason or 'without code'}", status=code, retry_after=seconds)
