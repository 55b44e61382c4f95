"""Parses the path, the query and the Accept header of a request. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import msgspec

from deploy.devcluster.apiserver.kinds.kind_registry import KindRegistry, ResourceTarget
from deploy.devcluster.apiserver.read.list_watch import ObjectForm
from deploy.devcluster.apiserver.status_errors import StatusError, bad_request, no_such_path


class RequestInfo(msgspec.Struct, frozen=True):
    """A path below `/api` or `/apis`, before the kind is looked up."""

    group: str
    version: str
    namespace: str
    parts: tuple[str, ...]
    """Plural, name and subresource, as far as the path has them."""


def split(segments: Sequence[str]) -> RequestInfo:
    """Parse the segments of a path that begins with `api` or `apis`. Raises 404."""
    if segments[0] == "api":
        group, version, rest = "", segments[1], list(segments[2:])
    elif len(segments) >= 3:
        group, version, rest = segments[1], segments[2], list(segments[3:])
    else:
        raise no_such_path()
    namespace = ""
    # `/namespaces/NAME/status` is a namespace's own subresource, not a resource "status" in it.
    if len(rest) >= 3 and rest[0] == "namespaces" and rest[2] not in {"status", "finalize"}:
        namespace, rest = rest[1], rest[2:]
    if len(rest) > 3:
        raise no_such_path()
    return RequestInfo(group, version, namespace, tuple(rest))


def find(kinds: KindRegistry, path: RequestInfo) -> ResourceTarget:
    """Resolve the kind and the object of a path. Raises 404."""
    found = kinds.at(path.group, path.version, path.parts[0])
    name = path.parts[1] if len(path.parts) > 1 else ""
    if found is None or (found[0].namespaced and name and not path.namespace):
        raise no_such_path()
    if path.namespace and not found[0].namespaced:
        raise no_such_path()
    return ResourceTarget(*found, path.namespace, name, path.parts[2] if len(path.parts) > 2 else "")


def form_of(accept: str) -> ObjectForm:
    """The requested form of objects, from the `Accept` header. Raises 406 if none is supported."""
    offers = [[part.strip() for part in one.split(";")] for one in accept.split(",") if one.strip()]
    for media, *parameters in offers:
        if media not in {"application/json", "*/*", "application/*"}:
            continue
        asked = dict(one.split("=", 1) for one in parameters if "=" in one)
        if asked.get("as") in {"Table", "PartialObjectMetadata", "PartialObjectMetadataList"}:
            if asked.get("v") == "v1" and asked.get("g") == "meta.k8s.io":
                return ObjectForm(asked["as"].removesuffix("List"))
            continue
        if "as" not in asked:
            return ObjectForm()
    if not offers:
        return ObjectForm()
    raise StatusError(
        406, "NotAcceptable", "only the following media types are accepted: application/json, application/json;as=Table"
    )


def flag(query: Mapping[str, str], name: str) -> bool | None:
    """A boolean of the query, or None if absent. Raises 400."""
    value = query.get(name)
    if value is None or value == "":
        return None
    if value.lower() in {"1", "t", "true"}:
        return True
    if value.lower() in {"0", "f", "false"}:
        return False
    raise bad_request(f'invalid value "{value}" of {name}: true or false is needed')


def whole(query: Mapping[str, str], name: str) -> int | None:
    """A whole number of the query, or None if absent. Raises 400."""
    value = query.get(name)
    if not value:
        return None
    if not (value.isascii() and value.isdigit() and len(value) < 12):
        raise bad_request(f'invalid value "{value}" of {name}: a whole number is needed')
    return int(value)
