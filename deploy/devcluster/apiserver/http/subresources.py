"""HTTP handlers of subresources: `scale`, `log`, `token`, `binding`, `eviction`, `finalize`."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from aiohttp import web

from deploy.devcluster.apiserver import reviews
from deploy.devcluster.apiserver.access.token_authentication import TokenAuthenticator
from deploy.devcluster.apiserver.http import bodies, container_logs
from deploy.devcluster.apiserver.kinds.kind_registry import ResourceTarget
from deploy.devcluster.apiserver.object_store import Store, StoredObject
from deploy.devcluster.apiserver.status_errors import StatusError, no_such_path, not_found
from deploy.devcluster.apiserver.user_info import UserInfo
from deploy.devcluster.apiserver.write import patching
from deploy.devcluster.apiserver.write.object_writer import ObjectWriter
from deploy.devcluster.apiserver.write.write_options import DeleteOptions
from deploy.devcluster.cluster_api import Obj

_SUCCESS = {"kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Success", "code": 201}


class SubresourceHandlers:
    """Handles subresources other than `status`, which `handlers` treats as a part of the object."""

    def __init__(
        self, store: Store, writer: ObjectWriter, accounts: TokenAuthenticator, clock: Callable[[], float]
    ) -> None:
        self._store = store
        self._writer = writer
        self._accounts = accounts
        self._clock = clock
        self.log_source: container_logs.LogSource | None = None
        """The source of logs. Requests for logs return 501 if None."""

    def _stored(self, target: ResourceTarget) -> StoredObject:
        stored = self._store.get(target.kind.resource, *target.key)
        if stored is None:
            raise not_found(target.kind.resource, target.name)
        return stored

    async def answer(self, request: web.Request, caller: UserInfo, target: ResourceTarget) -> web.StreamResponse:
        """Handle a request. Raises 404 for an unknown subresource, and the errors of the subresource."""
        match (target.kind.resource, target.subresource, request.method):
            case (_, "scale", "GET" | "PUT" | "PATCH") if target.kind.scale:
                return await self._scale(request, caller, target)
            case ("pods", "log", "GET"):
                return await self._logs(request, target)
            case ("pods", "binding", "POST"):
                return await self._bind(request, caller, target)
            case ("pods", "eviction", "POST"):
                await bodies.read_object(request)
                await self._writer.deleter.delete(target, bodies.options_of(request, caller), DeleteOptions())
                return bodies.reply_object(_SUCCESS, status=201)
            case ("serviceaccounts", "token", "POST"):
                body = await bodies.read_object(request)
                made = reviews.token_request(self._accounts, target.namespace, target.name, body, self._clock())
                return bodies.reply_object(made, status=201)
            case ("namespaces", "finalize", "PUT"):
                await bodies.read_object(request)
                return bodies.reply(self._stored(target).encoded(target.api_version))
            case ("pods", "exec" | "attach" | "portforward", _):
                self._stored(target)
                raise StatusError(
                    501, "NotImplemented", f"the devcluster has no pods/{target.subresource}; use `meshlog exec`"
                )
            case _:
                raise no_such_path()

    async def _bind(self, request: web.Request, caller: UserInfo, target: ResourceTarget) -> web.StreamResponse:
        body = await bodies.read_object(request)
        node = body.get("target") if isinstance(body, dict) else None
        name = str(node.get("name") or "") if isinstance(node, dict) else ""
        await self._writer.modify(
            ResourceTarget(target.kind, target.version, target.namespace, target.name),
            lambda old: {**old, "spec": {**old["spec"], "nodeName": name}},
            bodies.options_of(request, caller),
        )
        return bodies.reply_object(_SUCCESS, status=201)

    async def _scale(self, request: web.Request, caller: UserInfo, target: ResourceTarget) -> web.StreamResponse:
        kind = target.kind
        if request.method == "GET":
            return bodies.reply_object(reviews.scale_of(kind, self._stored(target).obj))
        patch = await bodies.read_object(request, "application/json", *bodies.PATCHES)
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
        main = ResourceTarget(kind, target.version, target.namespace, target.name)
        stored = await self._writer.modify(main, change, options)
        return bodies.reply_object(reviews.scale_of(kind, stored.obj))

    async def _logs(self, request: web.Request, target: ResourceTarget) -> web.StreamResponse:
        options = container_logs.options(request, self._stored(target).obj, self._clock())
        if self.log_source is None:
            raise StatusError(501, "NotImplemented", "this API server has no source of container logs")
        response = web.StreamResponse(headers={"Content-Type": "text/plain"})
        pieces = self.log_source(target.namespace, target.name, options)
        # An error (no previous container) is raised with the first piece, before the status line is sent.
        first = await anext(pieces, b"")
        return await bodies.stream(request, response, pieces, first)
