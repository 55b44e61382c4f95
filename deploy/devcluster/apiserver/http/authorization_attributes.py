"""Derives the attributes of an HTTP request that the authorizer checks: verb, resource, namespace and name, or path."""

from __future__ import annotations

from aiohttp import web

from deploy.devcluster.apiserver.access.authorization import Attributes
from deploy.devcluster.apiserver.http.request_target import RequestInfo

_METHODS = {"GET": "get", "HEAD": "get", "POST": "create", "PUT": "update", "PATCH": "patch", "DELETE": "delete"}


def resource_attributes(request: web.Request, path: RequestInfo, namespace: str) -> Attributes:
    """Attributes of a request below `/api/v1` or `/apis/GROUP/VERSION`. Never raises.

    A list, watch or deletion with `fieldSelector=metadata.name=…` has that name.
    """
    plural, name, subresource = (*path.parts, "", "", "")[:3]
    verb = _METHODS.get(request.method, request.method.lower())
    if not name and verb in {"get", "delete"}:
        verb = {"get": "list", "delete": "deletecollection"}[verb]
        if verb == "list" and request.query.get("watch", "").lower() in {"1", "t", "true"}:
            verb = "watch"
        for field in request.query.get("fieldSelector", "").split(","):
            if field.startswith("metadata.name="):
                name = field.removeprefix("metadata.name=").removeprefix("=")
    if (path.group, plural) == ("", "namespaces"):
        namespace = name
    resource = f"{plural}/{subresource}" if subresource else plural
    return Attributes(verb=verb, group=path.group, resource=resource, namespace=namespace, name=name)


def path_attributes(request: web.Request) -> Attributes:
    """Attributes of a request for a non-resource path."""
    return Attributes(verb=_METHODS.get(request.method, request.method.lower()), path=request.path)
