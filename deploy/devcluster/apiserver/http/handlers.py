"""HTTP handlers: authenticate, authorize, call reader or writer, and encode the result or the error.

One route serves all paths, because the set of kinds changes while the server runs.
"""

from __future__ import annotations

import logging
import random
from collections.abc import Callable
from typing import Any, cast
from urllib.parse import unquote

import msgspec
from aiohttp import web

from deploy.devcluster.apiserver import reviews
from deploy.devcluster.apiserver.access.authorization import Authorizer
from deploy.devcluster.apiserver.access.token_authentication import TokenAuthenticator
from deploy.devcluster.apiserver.http import bodies
from deploy.devcluster.apiserver.http.api_documents import OPEN, ApiDocuments
from deploy.devcluster.apiserver.http.authorization_attributes import path_attributes, resource_attributes
from deploy.devcluster.apiserver.http.discovery import VIRTUAL, DiscoveryDocuments
from deploy.devcluster.apiserver.http.request_target import RequestInfo, find, flag, form_of, split, whole
from deploy.devcluster.apiserver.http.subresources import SubresourceHandlers
from deploy.devcluster.apiserver.kinds.kind_registry import KindRegistry, ResourceTarget
from deploy.devcluster.apiserver.object_store import Store, StoredObject
from deploy.devcluster.apiserver.read import table_rows
from deploy.devcluster.apiserver.read.list_watch import ListOptions, ListWatch
from deploy.devcluster.apiserver.selectors import both, field_selector, label_selector
from deploy.devcluster.apiserver.status_errors import (
    StatusError,
    bad_request,
    body_of,
    method_not_allowed,
    no_such_path,
    not_found,
    status_object,
    unauthorized,
)
from deploy.devcluster.apiserver.user_info import UserInfo
from deploy.devcluster.apiserver.write import patching
from deploy.devcluster.apiserver.write.object_writer import ObjectWriter
from deploy.devcluster.apiserver.write.write_options import WriteOptions
from deploy.devcluster.cluster_api import KubeApiError, Obj

_log = logging.getLogger(__name__)


class RequestHandlers:
    """Handles all requests to the API."""

    def __init__(
        self,
        *,
        store: Store,
        kinds: KindRegistry,
        reader: ListWatch,
        writer: ObjectWriter,
        accounts: TokenAuthenticator,
        authorizer: Authorizer,
        clock: Callable[[], float],
    ) -> None:
        self._store = store
        self._authorizer = authorizer
        self._kinds = kinds
        self._reader = reader
        self._writer = writer
        self._accounts = accounts
        self._documents = ApiDocuments(DiscoveryDocuments(kinds), accounts)
        self._clock = clock
        self.subresources = SubresourceHandlers(store, writer, accounts, clock)

    def application(self) -> web.Application:
        """The aiohttp application, with one route for all paths."""
        application = web.Application(client_max_size=bodies.MAX_BODY)
        application.router.add_route("*", "/{path:.*}", self._answer)
        return application

    async def _answer(self, request: web.Request) -> web.StreamResponse:
        try:
            return await self._dispatch(request)
        except KubeApiError as error:
            response = bodies.reply_object(body_of(error), status=error.status)
            if isinstance(error, StatusError) and "retryAfterSeconds" in error.details:
                response.headers["Retry-After"] = str(error.details["retryAfterSeconds"])
            return response
        except RecursionError:
            return bodies.reply_object(body_of(bad_request("the object is nested too deep")), status=400)
        except (ConnectionError, web.HTTPException):
            raise
        except Exception as error:  # noqa: BLE001 (the rim)
            # A bug: the client receives a Status, and the log the traceback.
            _log.exception("request failed", extra={"method": request.method, "path": request.path})
            what = f"Internal error occurred: {type(error).__name__}"
            return bodies.reply_object(status_object(500, "InternalError", what), status=500)

    async def _dispatch(self, request: web.Request) -> web.StreamResponse:
        caller = self._caller(request)
        segments = [unquote(one) for one in request.rel_url.raw_path.split("/") if one]
        if (segments[:1] == ["api"] and len(segments) > 2) or (segments[:1] == ["apis"] and len(segments) > 3):
            path = split(segments)
            self._authorizer.check(caller, resource_attributes(request, path, path.namespace))
            return await self._resource(request, caller, path)
        if request.path not in OPEN:
            self._authorizer.check(caller, path_attributes(request))
        return self._documents.answer(request, segments)

    def _caller(self, request: web.Request) -> UserInfo:
        scheme, _, token = request.headers.get("Authorization", "").partition(" ")
        if scheme.lower() == "bearer" and token.strip().isascii():
            found = self._accounts.authenticate(token.strip())
            if found is not None:
                return found[0]
        elif not scheme and request.path in OPEN:
            return UserInfo("system:anonymous", groups=("system:unauthenticated",))
        raise unauthorized()

    # --- resources ------------------------------------------------------------------------------------------------

    async def _resource(self, request: web.Request, caller: UserInfo, path: RequestInfo) -> web.StreamResponse:
        if (path.group, path.version, path.parts) == ("meshlog.io", "v1", ("changesets",)):
            return await self._change_set(request, caller)
        for group, version, plural, kind, _namespaced in VIRTUAL:
            if (path.group, path.version, path.parts) == (group, version, (plural,)):
                return await self._review(request, caller, kind, path.namespace)
        target = find(self._kinds, path)
        if target.subresource not in {"", "status"}:
            return await self.subresources.answer(request, caller, target)
        if target.subresource and not target.kind.status:
            raise no_such_path()
        if not target.name:
            return await self._collection(request, caller, target)
        return await self._one(request, caller, target)

    async def _one(self, request: web.Request, caller: UserInfo, target: ResourceTarget) -> web.StreamResponse:
        match request.method:
            case "GET" | "HEAD":
                return self._object(request, target, self._stored(target))
            case "PUT":
                options = bodies.options_of(request, caller)
                body = await bodies.read_object(request)
                return self._object(request, target, await self._writer.update(target, body, options), options)
            case "PATCH":
                return await self._patch(request, caller, target)
            case "DELETE" if not target.subresource:
                return await self._delete(request, caller, target)
            case _:
                raise method_not_allowed()

    async def _collection(self, request: web.Request, caller: UserInfo, target: ResourceTarget) -> web.StreamResponse:
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
                stored = await self._writer.create(target, body, options)
                return self._object(request, target, stored, options, status=201)
            case "DELETE":
                options, deletion = await bodies.read_deletion(request, caller)
                query = self._query(request, target)
                gone = await self._writer.deleter.delete_collection(target, options, deletion, query.matches)
                raw = b",".join(one.encoded(query.api_version) for one in gone)
                head = {"kind": f"{target.kind.kind}List", "apiVersion": query.api_version}
                head |= {"metadata": {"resourceVersion": str(self._store.revision)}}
                return bodies.reply(msgspec.json.encode(head)[:-1] + b',"items":[' + raw + b"]}")
            case _:
                raise method_not_allowed()

    def _query(self, request: web.Request, target: ResourceTarget) -> ListOptions:
        return ListOptions(
            kind=target.kind,
            version=target.version,
            namespace=target.namespace,
            matches=both(
                label_selector(request.query.get("labelSelector", "")),
                field_selector(target.kind.resource, request.query.get("fieldSelector", "")),
            ),
            form=form_of(request.headers.get("Accept", "")),
        )

    def _stored(self, target: ResourceTarget) -> StoredObject:
        stored = self._store.get(target.kind.resource, *target.key)
        if stored is None:
            raise not_found(target.kind.resource, target.name)
        return stored

    def _object(
        self,
        request: web.Request,
        target: ResourceTarget,
        stored: StoredObject,
        options: WriteOptions | None = None,
        *,
        status: int = 200,
    ) -> web.Response:
        form = form_of(request.headers.get("Accept", ""))
        if form.kind == "Table":
            include = request.query.get("includeObject", "Metadata")
            rows = [table_rows.row(target.version, stored.obj, self._clock(), include)]
            metadata = {"resourceVersion": stored.obj["metadata"].get("resourceVersion", "")}
            raw = msgspec.json.encode(table_rows.table(target.version, rows, metadata))
        elif form.kind:
            raw = msgspec.json.encode(table_rows.partial(stored.obj))
        else:
            raw = stored.encoded(target.api_version)
        warnings = [*_deprecation(target), *(options.warnings if options else ())]
        return bodies.reply(raw, status=status, warnings=warnings)

    async def _watch(self, request: web.Request, query: ListOptions) -> web.StreamResponse:
        wanted = whole(request.query, "timeoutSeconds")
        # As on Kubernetes: 30 to 60 minutes at random, so that watches do not all end together.
        seconds = float(wanted) if wanted else random.uniform(1800, 3600)  # noqa: S311 (no secret)
        lines = self._reader.watch(
            query,
            revision=request.query.get("resourceVersion", ""),
            bookmarks=bool(flag(request.query, "allowWatchBookmarks")),
            seconds=seconds,
            initial=flag(request.query, "sendInitialEvents"),
        )
        response = web.StreamResponse(headers={"Content-Type": "application/json", "Cache-Control": "no-cache"})
        return await bodies.stream(request, response, lines)

    async def _patch(self, request: web.Request, caller: UserInfo, target: ResourceTarget) -> web.StreamResponse:
        media = request.content_type
        offered = bodies.PATCHES - ({"application/strategic-merge-patch+json"} if target.kind.custom else set())
        if media not in offered:
            raise bodies.unsupported_media(sorted(offered))
        options = bodies.options_of(request, caller, apply=media in bodies.YAML)
        patch = await bodies.read_object(request, *bodies.PATCHES)
        if media in bodies.YAML:
            if self._store.get(target.kind.resource, *target.key) is None:
                # Applying a missing object creates it, so the verb `create` on that name is required as well.
                wanted = resource_attributes(
                    request,
                    RequestInfo(
                        target.kind.group, target.version.name, target.namespace, (target.kind.plural, target.name)
                    ),
                    target.namespace,
                )
                self._authorizer.check(caller, msgspec.structs.replace(wanted, verb="create"))
            stored, fresh = await self._writer.apply(target, patch, options)
            return self._object(request, target, stored, options, status=201 if fresh else 200)
        stored = await self._writer.modify(target, _change(media, patch, target), options)
        return self._object(request, target, stored, options)

    async def _delete(self, request: web.Request, caller: UserInfo, target: ResourceTarget) -> web.StreamResponse:
        options, deletion = await bodies.read_deletion(request, caller)
        stored, gone = await self._writer.deleter.delete(target, options, deletion)
        if not gone:
            return self._object(request, target, stored, options)
        details = {"name": target.name, "kind": target.kind.plural, "uid": stored.obj["metadata"]["uid"]}
        if target.kind.group:
            details["group"] = target.kind.group
        body = {"kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Success", "details": details}
        return bodies.reply(msgspec.json.encode(body), warnings=options.warnings)

    async def _review(self, request: web.Request, caller: UserInfo, kind: str, namespace: str) -> web.StreamResponse:
        if request.method != "POST":
            raise method_not_allowed()
        body = await bodies.read_object(request)
        if kind == "TokenReview":
            return bodies.reply_object(reviews.token_review(self._accounts, body), status=201)
        if kind == "Event":
            found = self._kinds.of("v1", "Event")
            assert found is not None
            options = bodies.options_of(request, caller)
            stored = await self._writer.create(ResourceTarget(*found, namespace), reviews.core_event(body), options)
            return bodies.reply_object(reviews.new_event(stored.obj), status=201)
        return bodies.reply_object(reviews.permission(kind, body, caller, self._authorizer), status=201)

    async def _change_set(self, request: web.Request, caller: UserInfo) -> web.StreamResponse:
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


def _change(media: str, patch: Any, target: ResourceTarget) -> Callable[[Obj], Any]:
    match media:
        case "application/json-patch+json":
            return lambda old: patching.json_patch(old, patch)
        case "application/merge-patch+json":
            if not isinstance(patch, dict):
                raise bad_request("a merge patch is an object")
            return lambda old: patching.merge(old, patch)
        case _:
            return lambda old: patching.strategic(old, patch, target.version.schema)


def _deprecation(target: ResourceTarget) -> list[str]:
    return [target.version.deprecation] if target.version.deprecation else []
