"""HTTP: requests to calls of reader and writer, results and refusals to responses.

One handler for everything below `/api` and `/apis`: which kinds there are changes while it runs, and the path says
all that a router would.
"""

from __future__ import annotations

import logging
import random
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any, cast
from urllib.parse import unquote

import msgspec
from aiohttp import web

from deploy.devcluster.apiserver import bodies, logs, patching, reviews, tables
from deploy.devcluster.apiserver.accounts import Accounts
from deploy.devcluster.apiserver.admission import Caller
from deploy.devcluster.apiserver.discovery import VERSION, VIRTUAL, Discovery
from deploy.devcluster.apiserver.kinds import Kinds
from deploy.devcluster.apiserver.reading import Query, Reader
from deploy.devcluster.apiserver.refusals import (
    RefusedError,
    bad_request,
    body_of,
    method_not_allowed,
    no_such_path,
    not_found,
    status_object,
    unauthorized,
)
from deploy.devcluster.apiserver.selecting import both, field_selector, label_selector
from deploy.devcluster.apiserver.store import Store, Stored
from deploy.devcluster.apiserver.targets import Path, Target, find, flag, form_of, split, whole
from deploy.devcluster.apiserver.writing import Options, Precondition, Writer
from deploy.devcluster.cluster import ApiError, Obj

_log = logging.getLogger(__name__)
_OPEN = frozenset({"/healthz", "/livez", "/readyz", "/version", "/openid/v1/jwks", "/.well-known/openid-configuration"})
"""Paths that nobody needs to authenticate for."""
_PATCHES = {
    "application/json-patch+json",
    "application/merge-patch+json",
    "application/strategic-merge-patch+json",
    "application/apply-patch+yaml",
}
Handler = Callable[[web.Request, Caller], Awaitable[web.StreamResponse]]


class Handlers:
    """The API's HTTP face."""

    def __init__(
        self,
        *,
        store: Store,
        kinds: Kinds,
        reader: Reader,
        writer: Writer,
        accounts: Accounts,
        clock: Callable[[], float],
    ) -> None:
        self._store = store
        self._kinds = kinds
        self._reader = reader
        self._writer = writer
        self._accounts = accounts
        self._discovery = Discovery(kinds)
        self._clock = clock
        self.log_source: logs.LogSource | None = None
        """Where logs come from; none: requests for logs are answered 501."""

    def application(self) -> web.Application:
        """An aiohttp application that answers every path."""
        application = web.Application(client_max_size=bodies.MAX_BODY)
        application.router.add_route("*", "/{path:.*}", self._answer)
        return application

    async def _answer(self, request: web.Request) -> web.StreamResponse:
        try:
            return await self._dispatch(request)
        except ApiError as error:
            response = bodies.reply_object(body_of(error), status=error.status)
            if isinstance(error, RefusedError) and "retryAfterSeconds" in error.details:
                response.headers["Retry-After"] = str(error.details["retryAfterSeconds"])
            return response
        except RecursionError:
            return bodies.reply_object(body_of(bad_request("the object is nested too deep")), status=400)
        except (ConnectionError, web.HTTPException):
            raise
        except Exception as error:
            # A bug of ours: the client gets a Status all the same, and the log the traceback.
            _log.exception("request failed", extra={"method": request.method, "path": request.path})
            what = f"Internal error occurred: {type(error).__name__}"
            return bodies.reply_object(status_object(500, "InternalError", what), status=500)

    async def _dispatch(self, request: web.Request) -> web.StreamResponse:
        caller = self._caller(request)
        segments = [unquote(one) for one in request.rel_url.raw_path.split("/") if one]
        head = segments[0] if segments else ""
        if head in {"api", "apis"} and len(segments) > (1 if head == "api" else 2):
            path = split(segments)
            if not path.parts:
                return self._document(request, self._discovery.resources(path.group, path.version))
            return await self._resource(request, caller, path)
        return self._document(request, self._fixed(request, segments))

    def _caller(self, request: web.Request) -> Caller:
        scheme, _, token = request.headers.get("Authorization", "").partition(" ")
        if scheme.lower() == "bearer" and token.strip().isascii():
            found = self._accounts.authenticate(token.strip())
            if found is not None:
                return found[0]
        elif not scheme and request.path in _OPEN:
            return Caller("system:anonymous", groups=("system:unauthenticated",))
        raise unauthorized()

    # --- documents ------------------------------------------------------------------------------------------------

    def _fixed(self, request: web.Request, segments: list[str]) -> bytes | None:
        aggregated = "as=APIGroupDiscoveryList" in request.headers.get("Accept", "")
        match segments:
            case ["healthz" | "livez" | "readyz", *_]:
                return b"ok"
            case ["version"]:
                return msgspec.json.encode(VERSION)
            case ["api"]:
                return self._discovery.aggregated(core=True) if aggregated else self._discovery.core()
            case ["apis"]:
                return self._discovery.aggregated(core=False) if aggregated else self._discovery.groups()
            case ["apis", group]:
                return self._discovery.group(group)
            case ["openapi", "v3"]:
                return self._discovery.openapi_index()
            case ["openapi", "v3", "api", version]:
                return self._discovery.openapi("", version)
            case ["openapi", "v3", "apis", group, version]:
                return self._discovery.openapi(group, version)
            case ["openid", "v1", "jwks"]:
                return msgspec.json.encode(self._accounts.keys())
            case [".well-known", "openid-configuration"]:
                return msgspec.json.encode(self._accounts.discovery())
            case []:
                paths = ["/api", "/api/v1", "/apis", "/healthz", "/livez", "/openapi/v3", "/readyz", "/version"]
                return msgspec.json.encode({"paths": paths})
            case _:
                return None

    def _document(self, request: web.Request, raw: bytes | None) -> web.Response:
        if raw is None:
            raise no_such_path()
        if request.method not in {"GET", "HEAD"}:
            raise method_not_allowed()
        if raw == b"ok":
            return web.Response(body=raw, content_type="text/plain")
        response = bodies.reply(raw)
        if "as=APIGroupDiscoveryList" in request.headers.get("Accept", "") and b"APIGroupDiscoveryList" in raw[:80]:
            response.headers["Content-Type"] = "application/json;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList"
        return response

    # --- resources ------------------------------------------------------------------------------------------------

    async def _resource(self, request: web.Request, caller: Caller, path: Path) -> web.StreamResponse:
        if (path.group, path.version, path.parts) == ("meshlog.io", "v1", ("changesets",)):
            return await self._change_set(request, caller)
        for group, version, plural, kind, _namespaced in VIRTUAL:
            if (path.group, path.version, path.parts) == (group, version, (plural,)):
                return await self._review(request, caller, kind, path.namespace)
        target = find(self._kinds, path)
        if target.subresource and target.subresource != "status":
            return await self._subresource(request, caller, target)
        if target.subresource == "status" and not target.kind.status:
            raise no_such_path()
        if not target.name:
            return await self._collection(request, caller, target)
        match request.method:
            case "GET" | "HEAD":
                return self._object(request, target, self._stored(target))
            case "PUT":
                options = bodies.options_of(request, caller)
                body = await bodies.read_object(request)
                stored = await self._writer.update(
                    target.kind, target.version, target.key, body, options, subresource=target.subresource
                )
                return self._object(request, target, stored, options)
            case "PATCH":
                return await self._patch(request, caller, target)
            case "DELETE" if not target.subresource:
                return await self._delete(request, caller, target)
            case _:
                raise method_not_allowed()

    async def _collection(self, request: web.Request, caller: Caller, target: Target) -> web.StreamResponse:
        match request.method:
            case "GET" | "HEAD":
                query = self._query(request, target)
                if flag(request.query, "watch"):
                    return await self._watch(request, query)
                return bodies.reply(
                    self._reader.list(
                        query,
                        limit=whole(request.query, "limit") or 0,
                        token=request.query.get("continue", ""),
                        revision=request.query.get("resourceVersion", ""),
                        match=request.query.get("resourceVersionMatch", ""),
                    ),
                    warnings=_deprecation(target),
                )
            case "POST":
                if target.kind.namespaced and not target.namespace:
                    raise method_not_allowed()
                options = bodies.options_of(request, caller)
                body = await bodies.read_object(request)
                stored = await self._writer.create(target.kind, target.version, target.namespace, body, options)
                return self._object(request, target, stored, options, status=201)
            case "DELETE":
                deletion = await _deletion(request, caller)
                query = self._query(request, target)
                gone = await self._writer.delete_collection(
                    target.kind,
                    target.namespace,
                    deletion.options,
                    matches=query.matches,
                    grace=deletion.grace,
                    propagation=deletion.propagation,
                )
                raw = b",".join(one.encoded(query.api_version) for one in gone)
                head = {"kind": f"{target.kind.kind}List", "apiVersion": query.api_version}
                head |= {"metadata": {"resourceVersion": str(self._store.revision)}}
                return bodies.reply(msgspec.json.encode(head)[:-1] + b',"items":[' + raw + b"]}")
            case _:
                raise method_not_allowed()

    def _query(self, request: web.Request, target: Target) -> Query:
        return Query(
            kind=target.kind,
            version=target.version,
            namespace=target.namespace,
            matches=both(
                label_selector(request.query.get("labelSelector", "")),
                field_selector(target.kind.resource, request.query.get("fieldSelector", "")),
            ),
            form=form_of(request.headers.get("Accept", "")),
        )

    def _stored(self, target: Target) -> Stored:
        stored = self._store.get(target.kind.resource, *target.key)
        if stored is None:
            raise not_found(target.kind.resource, target.name)
        return stored

    def _object(
        self,
        request: web.Request,
        target: Target,
        stored: Stored,
        options: Options | None = None,
        *,
        status: int = 200,
    ) -> web.Response:
        form = form_of(request.headers.get("Accept", ""))
        if form.kind == "Table":
            include = request.query.get("includeObject", "Metadata")
            rows = [tables.row(target.version, stored.obj, self._clock(), include)]
            metadata = {"resourceVersion": stored.obj["metadata"].get("resourceVersion", "")}
            raw = msgspec.json.encode(tables.table(target.version, rows, metadata))
        elif form.kind:
            raw = msgspec.json.encode(tables.partial(stored.obj))
        else:
            raw = stored.encoded(target.kind.api_version(target.version.name))
        warnings = [*_deprecation(target), *(options.warnings if options else ())]
        return bodies.reply(raw, status=status, warnings=warnings)

    async def _watch(self, request: web.Request, query: Query) -> web.StreamResponse:
        wanted = whole(request.query, "timeoutSeconds")
        # Kubernetes' own: half an hour to an hour, so that watches do not all end together.
        seconds = float(wanted) if wanted else random.uniform(1800, 3600)  # noqa: S311 (no secret)
        lines = self._reader.watch(
            query,
            revision=request.query.get("resourceVersion", ""),
            bookmarks=bool(flag(request.query, "allowWatchBookmarks")),
            seconds=seconds,
            initial=flag(request.query, "sendInitialEvents"),
        )
        response = web.StreamResponse(headers={"Content-Type": "application/json", "Cache-Control": "no-cache"})
        return await _stream(request, response, lines)

    async def _patch(self, request: web.Request, caller: Caller, target: Target) -> web.StreamResponse:
        media = request.content_type
        offered = _PATCHES - ({"application/strategic-merge-patch+json"} if target.kind.custom else set())
        if media not in offered:
            raise bodies.unsupported_media(sorted(offered))
        options = bodies.options_of(request, caller, apply=media in bodies.YAML)
        patch = await bodies.read_object(request, *_PATCHES)
        if media in bodies.YAML:
            stored, fresh = await self._writer.apply(
                target.kind, target.version, target.key, patch, options, subresource=target.subresource
            )
            return self._object(request, target, stored, options, status=201 if fresh else 200)
        change = _change(media, patch, target)
        stored = await self._writer.modify(
            target.kind, target.version, target.key, change, options, subresource=target.subresource
        )
        return self._object(request, target, stored, options)

    async def _delete(self, request: web.Request, caller: Caller, target: Target) -> web.StreamResponse:
        deletion = await _deletion(request, caller)
        stored, gone = await self._writer.delete(
            target.kind,
            target.key,
            deletion.options,
            grace=deletion.grace,
            propagation=deletion.propagation,
            precondition=deletion.precondition,
        )
        if not gone:
            return self._object(request, target, stored, deletion.options)
        details = {"name": target.name, "kind": target.kind.plural, "uid": stored.obj["metadata"]["uid"]}
        if target.kind.group:
            details["group"] = target.kind.group
        body = {"kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Success", "details": details}
        return bodies.reply(msgspec.json.encode(body), warnings=deletion.options.warnings)

    # --- subresources and what is not stored ----------------------------------------------------------------------

    async def _subresource(self, request: web.Request, caller: Caller, target: Target) -> web.StreamResponse:
        match (target.kind.resource, target.subresource, request.method):
            case (_, "scale", "GET" | "PUT" | "PATCH") if target.kind.scale:
                return await self._scale(request, caller, target)
            case ("pods", "log", "GET"):
                return await self._logs(request, target)
            case ("pods", "binding", "POST"):
                body = await bodies.read_object(request)
                node = str((body.get("target") or {}).get("name") or "") if isinstance(body, dict) else ""
                await self._writer.modify(
                    target.kind,
                    target.version,
                    target.key,
                    lambda old: {**old, "spec": {**old["spec"], "nodeName": node}},
                    bodies.options_of(request, caller),
                )
                return bodies.reply_object({"kind": "Status", "apiVersion": "v1", "status": "Success"}, status=201)
            case ("pods", "eviction", "POST"):
                await bodies.read_object(request)
                await self._writer.delete(target.kind, target.key, bodies.options_of(request, caller))
                return bodies.reply_object({"kind": "Status", "apiVersion": "v1", "status": "Success"}, status=201)
            case ("serviceaccounts", "token", "POST"):
                body = await bodies.read_object(request)
                made = reviews.token_request(self._accounts, target.namespace, target.name, body, self._clock())
                return bodies.reply_object(made, status=201)
            case ("namespaces", "finalize", "PUT"):
                await bodies.read_object(request)
                return self._object(request, target, self._stored(target))
            case ("pods", "exec" | "attach" | "portforward", _):
                self._stored(target)
                raise RefusedError(
                    501, "NotImplemented", f"the devcluster has no pods/{target.subresource}; use `meshlog exec`"
                )
            case _:
                raise no_such_path()

    async def _scale(self, request: web.Request, caller: Caller, target: Target) -> web.StreamResponse:
        kind = target.kind
        if request.method == "GET":
            return bodies.reply_object(reviews.scale_of(kind, self._stored(target).obj))
        patch = await bodies.read_object(request, "application/json", *_PATCHES)
        media = request.content_type

        def change(old: Obj) -> Any:
            scale = patch
            if request.method == "PATCH":
                current = reviews.scale_of(kind, old)
                if media == "application/json-patch+json":
                    scale = patching.json_patch(current, patch)
                else:
                    scale = patching.merge(current, patch)
                    scale["metadata"] = (patch.get("metadata") or {}) if isinstance(patch, dict) else {}
            return reviews.scaled(kind, old, scale)

        options = bodies.options_of(request, caller)
        stored = await self._writer.modify(kind, target.version, target.key, change, options)
        return bodies.reply_object(reviews.scale_of(kind, stored.obj))

    async def _logs(self, request: web.Request, target: Target) -> web.StreamResponse:
        options = logs.options(request, self._stored(target).obj)
        if self.log_source is None:
            raise RefusedError(501, "NotImplemented", "nobody here keeps logs")
        response = web.StreamResponse(headers={"Content-Type": "text/plain"})
        pieces = self.log_source(target.namespace, target.name, options).__aiter__()
        # A refusal ("no such previous container") comes with the first piece, and needs the status line.
        first = await anext(pieces, b"")
        return await _stream(request, response, pieces, first)

    async def _review(self, request: web.Request, caller: Caller, kind: str, namespace: str) -> web.StreamResponse:
        if request.method != "POST":
            raise method_not_allowed()
        body = await bodies.read_object(request)
        if kind == "TokenReview":
            return bodies.reply_object(reviews.token_review(self._accounts, body), status=201)
        if kind == "Event":
            found = self._kinds.of("v1", "Event")
            assert found is not None
            options = bodies.options_of(request, caller)
            stored = await self._writer.create(*found, namespace, reviews.core_event(body), options)
            return bodies.reply_object(reviews.new_event(stored.obj), status=201)
        return bodies.reply_object(reviews.permission(kind, body, caller), status=201)

    async def _change_set(self, request: web.Request, caller: Caller) -> web.StreamResponse:
        if request.method != "POST":
            raise method_not_allowed()
        body = await bodies.read_object(request)
        items = body.get("items") if isinstance(body, dict) else None
        if not isinstance(items, list) or not items or not all(isinstance(item, dict) for item in items):
            raise bad_request("a change set is a List with items, all of them objects")
        options = msgspec.structs.replace(bodies.options_of(request, caller), force=True)
        stored = await self._writer.transact(cast("list[Obj]", items), options)
        head = {"kind": "List", "apiVersion": "v1", "metadata": {"resourceVersion": str(self._store.revision)}}
        return bodies.reply_object({**head, "items": [one.obj for one in stored]})


class _Deletion(msgspec.Struct, frozen=True):
    options: Options
    grace: int | None
    propagation: str
    precondition: Precondition


async def _deletion(request: web.Request, caller: Caller) -> _Deletion:
    """Options of a deletion: from the query, or from a body if there is one. Raises 400, 422."""
    body: Any = await bodies.read_object(request) if request.body_exists and request.content_length != 0 else {}
    if not isinstance(body, dict):
        raise bad_request("DeleteOptions are an object")
    said = cast("dict[str, Any]", body)
    grace = said.get("gracePeriodSeconds", whole(request.query, "gracePeriodSeconds"))
    if grace is not None and (not isinstance(grace, int) or isinstance(grace, bool) or grace < 0):
        raise bad_request("gracePeriodSeconds must be a whole number, 0 or more")
    propagation = str(said.get("propagationPolicy") or request.query.get("propagationPolicy", ""))
    if propagation not in {"", "Background", "Foreground", "Orphan"}:
        raise bad_request(f'propagationPolicy: Unsupported value: "{propagation}"')
    if said.get("orphanDependents") or flag(request.query, "orphanDependents"):
        propagation = "Orphan"
    first = said.get("preconditions") or {}
    listed = said.get("dryRun") or []
    if not isinstance(first, dict) or not isinstance(listed, list):
        raise bad_request("preconditions are an object, dryRun is a list")
    precondition = Precondition(
        str(cast("dict[str, Any]", first).get("uid") or ""),
        str(cast("dict[str, Any]", first).get("resourceVersion") or ""),
    )
    options = bodies.options_of(request, caller)
    dry = options.dry_run or bodies.dry_run([str(one) for one in cast("list[Any]", listed)])
    return _Deletion(msgspec.structs.replace(options, dry_run=dry), grace, propagation, precondition)


def _change(media: str, patch: Any, target: Target) -> Callable[[Obj], Any]:
    match media:
        case "application/json-patch+json":
            return lambda old: patching.json_patch(old, patch)
        case "application/merge-patch+json":
            if not isinstance(patch, dict):
                raise bad_request("a merge patch is an object")
            return lambda old: patching.merge(old, patch)
        case _:
            return lambda old: patching.strategic(old, patch, target.version.schema)


def _deprecation(target: Target) -> list[str]:
    return [target.version.deprecation] if target.version.deprecation else []


async def _stream(
    request: web.Request, response: web.StreamResponse, pieces: AsyncIterator[bytes], first: bytes = b""
) -> web.StreamResponse:
    """Send pieces as they come; headers at once, for clients wait for them, and the first event may be hours away."""
    waiting = pieces.__aiter__()
    try:
        await response.prepare(request)
        if first:
            await response.write(first)
        async for piece in waiting:
            await response.write(piece)
        await response.write_eof()
    except (ConnectionError, TimeoutError):
        pass  # the client went away
    finally:
        close = getattr(waiting, "aclose", None)
        if close is not None:
            await close()
    return response
