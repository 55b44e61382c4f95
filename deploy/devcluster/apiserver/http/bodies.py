"""Reads request bodies and options, with their limits, and writes responses."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Mapping, Sequence
from typing import Any, cast

import msgspec
import yaml
from aiohttp import web

from deploy.devcluster.apiserver.http import protobuf
from deploy.devcluster.apiserver.http.request_target import flag, whole
from deploy.devcluster.apiserver.kinds.object_validation import Validation, body_object
from deploy.devcluster.apiserver.status_errors import (
    StatusCause,
    StatusError,
    bad_request,
    invalid,
    unsupported,
    wrong,
)
from deploy.devcluster.apiserver.user_info import UserInfo
from deploy.devcluster.apiserver.write.write_options import DeleteOptions, WriteOptions
from shared.io.decoding import UndecodableError, decode_any

MAX_BODY = 3 * 1024 * 1024
"""Bytes of a request body; the limit of Kubernetes."""
PATCHES = frozenset(
    {
        "application/json-patch+json",
        "application/merge-patch+json",
        "application/strategic-merge-patch+json",
        "application/apply-patch+yaml",
    }
)
YAML = ("application/yaml", "application/apply-patch+yaml")
_DEPTH = 200


class _PlainLoader(yaml.SafeLoader):
    """YAML without aliases: a few bytes of them can expand to gigabytes."""

    def compose_node(self, parent: Any, index: Any) -> Any:
        """Refuse an alias."""
        if self.check_event(yaml.AliasEvent):
            raise yaml.YAMLError("aliases are not allowed")
        return super().compose_node(parent, index)


async def read(request: web.Request) -> bytes:
    """The whole body. Raises 413."""
    too_large = StatusError(413, "RequestEntityTooLarge", f"Request entity too large: limit is {MAX_BODY}")
    if (request.content_length or 0) > MAX_BODY:
        raise too_large
    try:
        return await request.read()
    except web.HTTPRequestEntityTooLarge as error:
        raise too_large from error


async def read_object(request: web.Request, *media: str) -> Any:
    """Decode the body by its media type: JSON, YAML or protobuf. Raises 400, 413, 415."""
    raw = await read(request)
    if request.content_type == protobuf.MEDIA and not media:
        return protobuf.decode(raw)
    allowed = media or ("application/json", "application/yaml")
    if request.content_type not in {*allowed, "application/octet-stream", "application/x-www-form-urlencoded"}:
        raise unsupported_media(allowed)
    if request.content_type in YAML:
        return from_yaml(raw)
    return _shallow(body_object(raw))


def from_yaml(raw: bytes) -> Any:
    """YAML (or JSON, which `kubectl` sends under YAML's name). Raises 400."""
    try:
        return _shallow(decode_any(raw))
    except UndecodableError:
        pass
    try:
        loaded = yaml.load(raw, Loader=_PlainLoader)  # noqa: S506 (derived from SafeLoader)
        # Timestamps and the like become JSON strings; values without a JSON form are rejected.
        return _shallow(decode_any(msgspec.json.encode(loaded)))
    except (yaml.YAMLError, TypeError, ValueError, RecursionError) as error:
        raise bad_request(f"error decoding YAML: {str(error)[:300]}") from error


def _shallow(value: Any) -> Any:
    """Raises 400 if the value is nested so deep that recursive code would fail."""
    level: list[Any] = [value]
    for _depth in range(_DEPTH):
        below: list[Any] = []
        for item in level:
            if isinstance(item, dict):
                below.extend(one for one in cast("dict[str, Any]", item).values() if isinstance(one, (dict, list)))
            elif isinstance(item, list):
                below.extend(one for one in cast("list[Any]", item) if isinstance(one, (dict, list)))
        if not below:
            return value
        level = below
    raise bad_request(f"the object is nested more than {_DEPTH} levels deep")


def unsupported_media(allowed: Sequence[str]) -> StatusError:
    """415 with the accepted media types."""
    return StatusError(
        415,
        "UnsupportedMediaType",
        f"the body of the request was in an unknown format - accepted media types include: {', '.join(allowed)}",
    )


def options_of(request: web.Request, caller: UserInfo, *, apply: bool = False) -> WriteOptions:
    """Options of a write from the query; the default field manager is the user agent. Raises 422."""
    query = request.query
    manager = query.get("fieldManager", "")
    if len(manager) > 128:
        raise _options("fieldManager", [wrong("fieldManager", manager, "may not be longer than 128 bytes")])
    if apply and not manager:
        cause = StatusCause("FieldValueRequired", "fieldManager", "Required value: is required for apply patch")
        raise _options("fieldManager", [cause])
    if not manager:
        manager = request.headers.get("User-Agent", "").partition("/")[0].strip()[:128] or "unknown"
    validation = query.get("fieldValidation") or "Warn"
    if validation not in {"Ignore", "Warn", "Strict"}:
        raise _options("fieldValidation", [unsupported("fieldValidation", validation, ("Ignore", "Strict", "Warn"))])
    return WriteOptions(
        manager=manager,
        caller=caller,
        dry_run=dry_run(query.getall("dryRun", [])),
        validation=cast("Validation", validation),
        force=bool(flag(query, "force")),
    )


def dry_run(values: Sequence[str]) -> bool:
    """True if the request is a dry run. Raises 422."""
    if any(value not in {"", "All"} for value in values):
        raise _options("dryRun", [unsupported("dryRun", list(values), ("All",))])
    return any(values)


def _options(_field: str, causes: Sequence[StatusCause]) -> StatusError:
    return invalid("Options", "meta.k8s.io", "", causes)


def reply(raw: bytes, *, status: int = 200, warnings: Sequence[str] = ()) -> web.Response:
    """A JSON response."""
    response = web.Response(body=raw, status=status, content_type="application/json")
    for warning in warnings[:20]:
        text = "".join(char if char.isprintable() and ord(char) < 127 else "?" for char in warning)[:300]
        quoted = text.replace("\\", "\\\\").replace('"', '\\"')
        response.headers.add("Warning", f'299 - "{quoted}"')
    return response


def reply_object(body: Any, *, status: int = 200) -> web.Response:
    """A JSON response of an object."""
    return reply(msgspec.json.encode(body), status=status)


async def read_deletion(request: web.Request, caller: UserInfo) -> tuple[WriteOptions, DeleteOptions]:
    """Options of a deletion: from the query, or from a body if there is one. Raises 400, 422."""
    body: Any = await read_object(request) if request.body_exists and request.content_length != 0 else {}
    if not isinstance(body, dict):
        raise bad_request("DeleteOptions are an object")
    given = cast("dict[str, Any]", body)
    grace, propagation = _grace(given, request.query), _propagation(given, request.query)
    preconditions: Any = given.get("preconditions") or {}
    listed: Any = given.get("dryRun") or []
    if not isinstance(preconditions, dict) or not isinstance(listed, list):
        raise bad_request("preconditions are an object, dryRun is a list")
    required = cast("dict[str, Any]", preconditions)
    deletion = DeleteOptions(
        grace=grace,
        propagation=propagation,
        uid=str(required.get("uid") or ""),
        resource_version=str(required.get("resourceVersion") or ""),
    )
    options = options_of(request, caller)
    dry = options.dry_run or dry_run([str(one) for one in cast("list[Any]", listed)])
    return msgspec.structs.replace(options, dry_run=dry), deletion


def _grace(given: dict[str, Any], query: Mapping[str, str]) -> int | None:
    grace = given.get("gracePeriodSeconds", whole(query, "gracePeriodSeconds"))
    if grace is not None and (not isinstance(grace, int) or isinstance(grace, bool) or grace < 0):
        raise bad_request("gracePeriodSeconds must be a whole number, 0 or more")
    return grace


def _propagation(given: dict[str, Any], query: Mapping[str, str]) -> str:
    propagation = str(given.get("propagationPolicy") or query.get("propagationPolicy", ""))
    if propagation not in {"", "Background", "Foreground", "Orphan"}:
        raise bad_request(f'propagationPolicy: Unsupported value: "{propagation}"')
    return "Orphan" if given.get("orphanDependents") or flag(query, "orphanDependents") else propagation


async def stream(
    request: web.Request, response: web.StreamResponse, pieces: AsyncGenerator[bytes], first: bytes = b""
) -> web.StreamResponse:
    """Stream pieces. Sends the headers at once: clients wait for them, and the first event may come hours later."""
    try:
        await response.prepare(request)
        if first:
            await response.write(first)
        async for piece in pieces:
            await response.write(piece)
        await response.write_eof()
    except (ConnectionError, TimeoutError):
        pass  # the client went away
    finally:
        await pieces.aclose()
    return response
