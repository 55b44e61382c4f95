"""Projects objects of the API server to `shared.projected_objects`: only the fields that can change a proxy.

Fields that the struct lacks are dropped, so a heartbeat, a condition or `managedFields` makes no event. The change-set
annotation is removed too: it describes how an object arrived, not its contents. Decoding is typed and fast; an object
that the types refuse is decoded once more without its JSON nulls (Go writes empty lists as null), and rejected alone
if that fails.

An object that the log cannot take, because it is too large or is granting policy that cannot be decoded, is projected
to its closed form (`shared.records.withheld`): its last good form may contain what its user has revoked.
"""

from __future__ import annotations

import hashlib
from typing import Any

import msgspec

from services.ingestor.core.observations import ChangeSetMembership, NamespacedName, Projected
from shared import projected_objects
from shared.errors import MeshlogError
from shared.io.decoding import UndecodableError, convert, decode, decode_any, decode_by, decoding
from shared.policy.stored_form import read_policy, without_nulls
from shared.records import withheld
from shared.records.events import EventOrigin, encode_object
from shared.records.unreadable import why
from shared.records.withheld import GRANTING, closed

_MAX_CHANGE_SET = 100_000
_MAX_ID = 253
"""Characters of a change set's id."""
_MAX_ANNOTATION = 65_536
"""Characters of a change set's annotation."""
_MAX_SHARES = 512
"""Namespaces that a change set may declare."""
_KEPT_ANNOTATIONS = (projected_objects.MESHLOG_PREFIX, projected_objects.OSM_PREFIX)


class UnreadableObjectError(MeshlogError):
    """An object cannot be decoded as its kind; `name` is None if its name cannot be decoded either."""

    def __init__(self, kind: str, why: str, *, name: NamespacedName | None) -> None:
        super().__init__("object/unreadable", f"cannot be read ({why})", about=f"{kind} {name or '(no name)'}")
        self.kind = kind
        self.name = name


class _ManagedFields(msgspec.Struct):
    manager: str = ""
    time: str | None = None
    subresource: str | None = None


class _ObjectHeadMeta(msgspec.Struct, rename="camel"):
    name: str
    namespace: str | None = None
    uid: str | None = None
    resource_version: str | None = None
    annotations: dict[str, str] | None = None
    managed_fields: list[_ManagedFields] | None = None
    generation: int | None = None
    creation_timestamp: str | None = None
    deletion_timestamp: str | None = None


class _ObjectHead(msgspec.Struct, rename="camel"):
    metadata: _ObjectHeadMeta
    api_version: str = ""
    status: msgspec.Raw | msgspec.UnsetType = msgspec.UNSET


class _NameMeta(msgspec.Struct):
    name: str
    namespace: str | None = None


class _NameOnly(msgspec.Struct):
    metadata: _NameMeta


class _SpecOnly(msgspec.Struct):
    spec: msgspec.Raw = msgspec.Raw(b"")


_HEAD = msgspec.json.Decoder(_ObjectHead)
_NAME = msgspec.json.Decoder(_NameOnly)
_DECODERS = {kind: msgspec.json.Decoder(struct) for kind, struct in projected_objects.KINDS.items()}


def project(kind: str, payload: bytes | msgspec.Raw, *, api_version: str, source: str) -> Projected:
    """Project one object. `api_version` is used if the object has none (items of a list); `source`: list or watch.

    Raises `UnreadableObjectError`.
    """
    try:
        head = decode_by(_HEAD, payload)
        body, instead_of, reason = _body(kind, payload, head.metadata)
    except UndecodableError as error:
        raise UnreadableObjectError(kind, why(error), name=name_of(payload)) from error
    meta = head.metadata
    change_set = parse_change_set((meta.annotations or {}).get(projected_objects.ANNOTATION_CHANGE_SET, ""))
    version = head.api_version or api_version
    return Projected(
        kind=kind,
        name=NamespacedName(namespace=meta.namespace or "", name=meta.name),
        uid=meta.uid or "",
        resource_version=meta.resource_version or "",
        api_version=version,
        body=body,
        digest=digest_of(version, body, instead_of, reason),
        origin=_origin(meta.managed_fields or [], source=source, change_set=change_set),
        change_set=change_set,
        generation=meta.generation or 0,
        status=_status(kind, head.status),
        withheld=instead_of,
        why=reason,
    )


def project_issuer(issuer: str, jwks: dict[str, Any]) -> Projected:
    """Project the cluster's token issuer: it has no uid and no resource version, only its digest shows a change."""
    body, instead_of = _fitted("TokenIssuer", projected_objects.TokenIssuer(issuer=issuer, jwks=jwks))
    return Projected(
        kind="TokenIssuer",
        name=NamespacedName(namespace="", name="cluster"),
        uid="",
        resource_version="",
        api_version="",
        body=body,
        digest=digest_of("", body, instead_of),
        origin=EventOrigin(source="list"),
        withheld=instead_of,
    )


def digest_of(api_version: str, body: bytes, instead_of: int, reason: str = "") -> str:
    """Returns the digest by which projections are compared: 32 hex digits over API version and bytes.

    `instead_of`: bytes of the object of which this is the closed form; such a digest differs from that of an object
    with equal bytes. `reason`: why the object cannot be decoded; another reason is a change.
    """
    line = f"{reason}\n" if reason else ""
    mark = f"withheld {instead_of}\n{line}".encode() if instead_of else b""
    return hashlib.sha256(mark + api_version.encode() + b"\n" + body).hexdigest()[:32]


def name_of(payload: bytes | msgspec.Raw) -> NamespacedName | None:
    """Returns the name of an object that may be unreadable otherwise, or None if its name is unreadable too."""
    try:
        meta = decode_by(_NAME, payload).metadata
    except UndecodableError:
        return None
    return NamespacedName(namespace=meta.namespace or "", name=meta.name)


def parse_change_set(annotation: str) -> ChangeSetMembership | None:
    """Parse `<id>/<size>` or `<id>/<namespace>=<size>,…` (see `shared.records.change_set_annotation`).

    Returns None for anything else, because holding an object back for it would have no use.
    """
    identity, slash, rest = annotation.rpartition("/")
    if not slash or not 0 < len(identity) <= _MAX_ID or len(annotation) > _MAX_ANNOTATION:
        return None
    if "=" not in rest:
        size = _size(rest)
        return ChangeSetMembership(id=identity, size=size) if 1 < size <= _MAX_CHANGE_SET else None
    parts = [part.partition("=") for part in rest.split(",")]
    shares = {namespace: _size(size) for namespace, _, size in parts}
    size = sum(shares.values())
    if (
        len(shares) < len(parts)
        or len(shares) > _MAX_SHARES
        or not all(shares.values())
        or not 1 < size <= _MAX_CHANGE_SET
    ):
        return None
    return ChangeSetMembership(id=identity, size=size, shares=tuple(sorted(shares.items())))


def _size(text: str) -> int:
    """Returns a number of objects, or 0 if the text is not one."""
    return int(text[:9]) if text.isascii() and text.isdigit() else 0


def _body(kind: str, payload: bytes | msgspec.Raw, head: _ObjectHeadMeta) -> tuple[bytes, int, str]:
    """Returns the projection, 0 and ""; or the closed form, the bytes that it replaces, and the reason."""
    struct = projected_objects.KINDS[kind]
    if kind in GRANTING:
        try:
            return *_fitted(kind, _trimmed(read_policy(payload))), ""
        except UndecodableError as error:
            return *_closed_policy(kind, payload, head), why(error)
    if struct is projected_objects.PolicyObject:
        return *_fitted(kind, _trimmed(read_policy(payload))), ""
    try:
        decoded: Any = decode_by(_DECODERS[kind], payload)
    except UndecodableError:
        with decoding():
            whole = without_nulls(decode_any(payload))
        decoded = convert(struct, whole)
    return *_fitted(kind, _trimmed(decoded)), ""


def _fitted(kind: str, projected: Any) -> tuple[bytes, int]:
    body = bytes(encode_object(projected))
    if len(body) <= withheld.MOST_BYTES:
        return body, 0
    return bytes(encode_object(closed(kind, projected))), len(body)


def _closed_policy(kind: str, payload: bytes | msgspec.Raw, head: _ObjectHeadMeta) -> tuple[bytes, int]:
    """Returns the closed form of undecodable policy, and the size of its `spec`: a changed status is no change."""
    meta = projected_objects.Meta(
        name=head.name,
        namespace=head.namespace or "",
        uid=head.uid or "",
        creation_timestamp=head.creation_timestamp or "",
        deletion_timestamp=head.deletion_timestamp or "",
    )
    size = len(bytes(decode(_SpecOnly, payload).spec))
    return bytes(encode_object(closed(kind, projected_objects.PolicyObject(meta)))), max(1, size)


def _status(kind: str, status: msgspec.Raw | msgspec.UnsetType) -> bytes:
    return (
        bytes(status)
        if status is not msgspec.UNSET and projected_objects.KINDS[kind] is projected_objects.PolicyObject
        else b""
    )


def _trimmed(decoded: Any) -> Any:
    meta: projected_objects.Meta = decoded.metadata
    if not meta.annotations:
        return decoded
    kept = {
        key: value
        for key, value in meta.annotations.items()
        if key.startswith((projected_objects.MESHLOG_PREFIX, projected_objects.OSM_PREFIX))
        and key != projected_objects.ANNOTATION_CHANGE_SET
    }
    if len(kept) == len(meta.annotations):
        return decoded
    return msgspec.structs.replace(decoded, metadata=msgspec.structs.replace(meta, annotations=kept))


def _origin(managed: list[_ManagedFields], *, source: str, change_set: ChangeSetMembership | None) -> EventOrigin:
    # The newest entry names the last manager; times have one-second steps, so of equal times the last entry counts.
    # Entries of the status sub-resource belong to controllers that report, not to changes of the object.
    manager, time = "", ""
    for entry in managed:
        if entry.subresource != "status" and (entry.time or "") >= time:
            manager, time = entry.manager[:_MAX_ID], (entry.time or "")[:_MAX_ID]
    return EventOrigin(source=source, manager=manager, time=time, change_set=change_set.id if change_set else "")
