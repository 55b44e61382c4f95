"""Serves non-resource paths: health, version, discovery, OpenAPI, and the keys of service-account tokens."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import msgspec
from aiohttp import web

from deploy.devcluster.apiserver.access.token_authentication import TokenAuthenticator
from deploy.devcluster.apiserver.http import bodies
from deploy.devcluster.apiserver.http.discovery import VERSION, DiscoveryDocuments
from deploy.devcluster.apiserver.status_errors import StatusError, method_not_allowed, no_such_path

OPEN = frozenset({"/healthz", "/livez", "/readyz", "/version", "/openid/v1/jwks", "/.well-known/openid-configuration"})
"""Paths that are served without authentication."""
_KEY_SET = "application/jwk-set+json"
_AGGREGATED = "as=APIGroupDiscoveryList"
_OPENAPI_V2 = "application/com.github.proto-openapi.spec.v2@v1.0+protobuf"
_PATHS = (
    "/api",
    "/api/v1",
    "/apis",
    "/healthz",
    "/livez",
    "/openapi/v2",
    "/openapi/v3",
    "/openid/v1/jwks",
    "/readyz",
    "/version",
)


class ApiDocuments:
    """Responds to requests for non-resource paths."""

    def __init__(self, discovery: DiscoveryDocuments, accounts: TokenAuthenticator) -> None:
        self._discovery = discovery
        self._accounts = accounts

    def answer(self, request: web.Request, segments: Sequence[str]) -> web.Response:
        """Returns the document at a path. Raises 404, 405."""
        if segments and segments[0] in {"healthz", "livez", "readyz"}:
            return web.Response(body=b"ok", content_type="text/plain")
        if segments == ["openid", "v1", "jwks"]:
            return self._keys(request.headers.get("Accept", "*/*"))
        aggregated = _AGGREGATED in request.headers.get("Accept", "") and segments in (["api"], ["apis"])
        if segments == ["openapi", "v2"]:
            return _openapi_v2(request.headers.get("Accept", ""))
        raw = self._discovery.aggregated(core=segments == ["api"]) if aggregated else self._find(segments)
        if raw is None:
            raise no_such_path()
        if request.method not in {"GET", "HEAD"}:
            raise method_not_allowed()
        response = bodies.reply(raw)
        if aggregated:
            response.headers["Content-Type"] = f"application/json;g=apidiscovery.k8s.io;v=v2;{_AGGREGATED}"
        return response

    def _keys(self, takes: str) -> web.Response:
        """The JWK set, with the media type of RFC 7517. As on Kubernetes, raises 406 if only plain JSON is accepted."""
        if not any(kind.split(";")[0].strip() in {_KEY_SET, "application/*", "*/*"} for kind in takes.split(",")):
            raise StatusError(406, "NotAcceptable", f"only the following media types are accepted: {_KEY_SET}")
        return web.Response(body=msgspec.json.encode(self._accounts.keys()), content_type=_KEY_SET)

    def _find(self, segments: Sequence[str]) -> bytes | None:
        plain: dict[tuple[str, ...], Callable[[], bytes]] = {
            (): lambda: msgspec.json.encode({"paths": _PATHS}),
            ("version",): lambda: msgspec.json.encode(VERSION),
            ("api",): self._discovery.core,
            ("apis",): self._discovery.groups,
            ("openapi", "v3"): self._discovery.openapi_index,
            (".well-known", "openid-configuration"): lambda: msgspec.json.encode(self._accounts.discovery()),
        }
        if make := plain.get(tuple(segments)):
            return make()
        match segments:
            case ["api", version]:
                return self._discovery.resources("", version)
            case ["apis", group]:
                return self._discovery.group(group)
            case ["apis", group, version]:
                return self._discovery.resources(group, version)
            case ["openapi", "v3", "api", version]:
                return self._discovery.openapi("", version)
            case ["openapi", "v3", "apis", group, version]:
                return self._discovery.openapi(group, version)
            case _:
                return None


def _openapi_v2(takes: str) -> web.Response:
    """An OpenAPI v2 document without types.

    `kubectl` validates through the server (`fieldValidation`), which the v3 documents announce for each kind. A List is
    no such kind: for a List `kubectl` reads the v2 document, and skips every type that the document lacks.
    """
    title, version = b"Kubernetes", VERSION["gitVersion"].encode()
    if _OPENAPI_V2 not in takes:
        info = {"title": title.decode(), "version": version.decode()}
        return bodies.reply_object({"swagger": "2.0", "info": info, "paths": {}, "definitions": {}})
    info = _text(1, title) + _text(2, version)
    # The at sign is valid in an Accept header only, not in a Content-Type.
    return web.Response(body=_text(1, b"2.0") + _text(2, info), content_type=_OPENAPI_V2.replace("@", "."))


def _text(number: int, content: bytes) -> bytes:
    """A field of a protobuf message, of at most 127 bytes."""
    return bytes([number << 3 | 2, len(content)]) + content
