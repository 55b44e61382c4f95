"""Calls the admission webhooks whose rules match a write, over HTTPS as Kubernetes does.

Mutating webhooks are called one after the other, in the order of their configurations' names; then all validating
webhooks at once. If a call fails, `failurePolicy` decides whether the write is rejected or the webhook is ignored.
"""

from __future__ import annotations

import asyncio
import base64
import logging
import ssl
import uuid
from collections.abc import Awaitable, Callable, Mapping
from typing import Any

import aiohttp
import msgspec

from deploy.devcluster.apiserver.kinds.kind_registry import ResourceKind, ResourceTarget
from deploy.devcluster.apiserver.object_store import Store
from deploy.devcluster.apiserver.selectors import structured_selector
from deploy.devcluster.apiserver.status_errors import StatusError, bad_request, internal
from deploy.devcluster.apiserver.user_info import UserInfo
from deploy.devcluster.apiserver.write.patching import json_patch
from deploy.devcluster.cluster_api import Obj
from shared.io.decoding import decode_any

MUTATING = "mutatingwebhookconfigurations.admissionregistration.k8s.io"
VALIDATING = "validatingwebhookconfigurations.admissionregistration.k8s.io"
_log = logging.getLogger(__name__)

ResolveService = Callable[[str, str, int], Awaitable[tuple[str, int]]]
"""(namespace, name, port) of a Service → address and port to connect to. Raises `OSError` if there is none."""


class AdmissionAttributes(msgspec.Struct, frozen=True):
    """The attributes of a write under review."""

    target: ResourceTarget
    operation: str
    """`CREATE`, `UPDATE` or `DELETE`."""
    caller: UserInfo
    dry_run: bool = False
    options: dict[str, Any] = {}

    @property
    def kind(self) -> ResourceKind:
        """The kind of the object."""
        return self.target.kind

    @property
    def namespace(self) -> str:
        """The namespace of the object; for a Namespace, its own name."""
        return self.target.name if self.kind.resource == "namespaces" else self.target.namespace


class AdmissionWebhooks:
    """Calls the webhooks of the stored configurations."""

    def __init__(
        self,
        store: Store,
        resolve_service: ResolveService,
        identify: Callable[[ssl.SSLContext], None] = lambda _context: None,
    ) -> None:
        """`identify` loads the client certificate of the API server into a TLS context."""
        self._store = store
        self._identify = identify
        self._resolve = resolve_service
        self._session: aiohttp.ClientSession | None = None
        self._contexts: dict[str, ssl.SSLContext] = {}

    async def mutate(
        self, review: AdmissionAttributes, obj: Obj | None, old: Obj | None, warnings: list[str]
    ) -> Obj | None:
        """Returns the object as patched by the mutating webhooks. Raises their rejection."""
        for webhook in self._concerned(MUTATING, review, obj, old):
            response = await self._ask(webhook, review, obj, old, warnings)
            if response is None or obj is None or not response.get("patch"):
                continue
            if response.get("patchType") != "JSONPatch":
                raise internal(f'admission webhook "{webhook["name"]}" returned a patch that is no JSONPatch')
            try:
                patch = decode_any(base64.b64decode(str(response["patch"]), validate=True))
                patched = json_patch(obj, patch)
            except (ValueError, StatusError) as error:
                raise internal(f'admission webhook "{webhook["name"]}" returned an unusable patch: {error}') from error
            if not isinstance(patched, dict) or not isinstance(patched.get("metadata"), dict):
                raise internal(f'admission webhook "{webhook["name"]}" made something else of the object')
            obj = patched
        return obj

    async def validate(
        self, review: AdmissionAttributes, obj: Obj | None, old: Obj | None, warnings: list[str]
    ) -> None:
        """Raises the rejection of a validating webhook."""
        concerned = self._concerned(VALIDATING, review, obj, old)
        if not concerned:
            return
        answers = await asyncio.gather(
            *(self._ask(webhook, review, obj, old, warnings) for webhook in concerned), return_exceptions=True
        )
        for answer in answers:
            if isinstance(answer, BaseException):
                raise answer

    async def close(self) -> None:
        """Close the connections to webhooks."""
        if self._session is not None:
            await self._session.close()
            self._session = None

    def _concerned(
        self, configurations: str, review: AdmissionAttributes, obj: Obj | None, old: Obj | None
    ) -> list[dict[str, Any]]:
        if not self._store.count(configurations) or review.kind.group == "admissionregistration.k8s.io":
            return []
        return [
            webhook
            for configuration in self._store.items(configurations)
            for webhook in configuration.obj.get("webhooks") or ()
            if any(_rule_names(rule, review) for rule in webhook.get("rules") or ())
            and self._selects(webhook, review, obj, old)
        ]

    def _selects(self, webhook: dict[str, Any], review: AdmissionAttributes, obj: Obj | None, old: Obj | None) -> bool:
        wants_object = structured_selector(webhook.get("objectSelector"))
        labels = [((one.get("metadata") or {}).get("labels") or {}) for one in (obj, old) if one is not None]
        if not any(wants_object(one) for one in labels):
            return False
        wants_namespace = structured_selector(webhook.get("namespaceSelector"))
        if review.kind.resource == "namespaces":
            return any(wants_namespace(one) for one in labels)
        if not review.namespace:
            return True
        namespace = self._store.get("namespaces", "", review.namespace)
        return wants_namespace((namespace.obj["metadata"].get("labels") or {}) if namespace else {})

    async def _ask(
        self,
        webhook: dict[str, Any],
        review: AdmissionAttributes,
        obj: Obj | None,
        old: Obj | None,
        warnings: list[str],
    ) -> dict[str, Any] | None:
        """Returns the webhook's response, or None if the call failed and its policy is `Ignore`."""
        name = str(webhook["name"])
        if review.dry_run and webhook.get("sideEffects") not in {"None", "NoneOnDryRun"}:
            raise bad_request(f'admission webhook "{name}" does not support dry run')
        uid = str(uuid.uuid4())
        try:
            response = await self._call(webhook, _request(uid, review, obj, old), uid)
        except (aiohttp.ClientError, OSError, TimeoutError, ValueError, ssl.SSLError) as error:
            why = _why(webhook, error)
            if webhook.get("failurePolicy") == "Ignore":
                _log.warning("admission webhook ignored: it could not be asked", extra={"webhook": name, "why": why})
                return None
            raise internal(f'failed calling webhook "{name}": failed to call webhook: {why}') from error
        warnings.extend(str(one) for one in response.get("warnings") or ())
        if not response["allowed"]:
            raise _denial(name, response.get("status") or {})
        return response

    async def _call(self, webhook: dict[str, Any], request: dict[str, Any], uid: str) -> dict[str, Any]:
        config = webhook["clientConfig"]
        seconds = float(webhook.get("timeoutSeconds", 10))
        server_name = None
        if service := config.get("service"):
            host, port = await self._resolve(service["namespace"], service["name"], int(service.get("port", 443)))
            path = str(service.get("path") or "/")
            url = f"https://{host}:{port}{path if path.startswith('/') else f'/{path}'}"
            server_name = f"{service['name']}.{service['namespace']}.svc"
        else:
            url = str(config["url"])
        if self._session is None:
            self._session = aiohttp.ClientSession(connector=aiohttp.TCPConnector(keepalive_timeout=30))
        async with self._session.post(
            url,
            params={"timeout": f"{seconds:g}s"},
            data=msgspec.json.encode(request),
            headers={"Content-Type": "application/json", "Accept": "application/json"},
            ssl=self._context(str(config.get("caBundle") or "")),
            server_hostname=server_name,
            timeout=aiohttp.ClientTimeout(total=seconds),
            allow_redirects=False,
        ) as answer:
            raw = await answer.read()
            if answer.status != 200:
                raise ValueError(f"it answered {answer.status}")
        review = decode_any(raw)
        response = review.get("response") if isinstance(review, dict) else None
        if (
            not isinstance(response, dict)
            or response.get("uid") != uid
            or not isinstance(response.get("allowed"), bool)
        ):
            raise ValueError("expected an AdmissionReview with response.uid and response.allowed, got another")
        return response

    def _context(self, bundle: str) -> ssl.SSLContext:
        context = self._contexts.get(bundle)
        if context is None:
            pem = base64.b64decode(bundle).decode("ascii") if bundle else None
            context = ssl.create_default_context(cadata=pem)
            self._identify(context)
            if len(self._contexts) > 16:
                self._contexts.clear()
            self._contexts[bundle] = context
        return context


def _why(webhook: dict[str, Any], error: Exception) -> str:
    config = webhook["clientConfig"]
    service = config.get("service") or {}
    where = config.get("url") or f"https://{service.get('name')}.{service.get('namespace')}.svc"
    if isinstance(error, TimeoutError):
        return f'Post "{where}": context deadline exceeded'
    if isinstance(error, aiohttp.ClientConnectorCertificateError):
        return f'Post "{where}": tls: failed to verify certificate: {error.certificate_error}'
    if isinstance(error, aiohttp.ClientConnectorError):
        return f'Post "{where}": {error.os_error}'
    return f'Post "{where}": {str(error) or type(error).__name__}'


def _rule_names(rule: dict[str, Any], review: AdmissionAttributes) -> bool:
    def named(key: str, value: str) -> bool:
        wanted = rule.get(key) or ()
        return "*" in wanted or value in wanted

    plural = review.kind.plural
    resources = rule.get("resources") or ()
    if review.target.subresource:
        full = (f"{plural}/{review.target.subresource}", f"{plural}/*", f"*/{review.target.subresource}", "*/*")
        resource = any(one in resources for one in full)
    else:
        resource = plural in resources or "*" in resources or "*/*" in resources
    versions = [one.name for one in review.kind.versions if one.served]
    scope = rule.get("scope") or "*"
    return (
        resource
        and named("operations", review.operation)
        and named("apiGroups", review.kind.group)
        and any(named("apiVersions", one) for one in versions)
        and scope in {"*", "Namespaced" if review.kind.namespaced else "Cluster"}
    )


def _request(uid: str, review: AdmissionAttributes, obj: Obj | None, old: Obj | None) -> dict[str, Any]:
    kind = {"group": review.kind.group, "version": review.target.version.name, "kind": review.kind.kind}
    resource = {"group": review.kind.group, "version": review.target.version.name, "resource": review.kind.plural}
    request: dict[str, Any] = {
        "uid": uid,
        "kind": kind,
        "resource": resource,
        "requestKind": kind,
        "requestResource": resource,
        "name": review.target.name,
        "operation": review.operation,
        "userInfo": review.caller.info(),
        "object": obj,
        "oldObject": old,
        "dryRun": review.dry_run,
        "options": review.options or None,
    }
    if review.namespace:
        request["namespace"] = review.namespace
    if review.target.subresource:
        request["subResource"] = request["requestSubResource"] = review.target.subresource
    return {"kind": "AdmissionReview", "apiVersion": "admission.k8s.io/v1", "request": request}


def _denial(name: str, status: Mapping[str, Any]) -> StatusError:
    code = status.get("code")
    code = code if isinstance(code, int) and 400 <= code < 600 else 403
    reason = str(status.get("reason") or {400: "BadRequest", 403: "Forbidden", 422: "Invalid"}.get(code, "Forbidden"))
    given = str(status.get("message") or status.get("reason") or "")
    message = f'admission webhook "{name}" denied the request' + (f": {given}" if given else " without explanation")
    return StatusError(code, reason, message)
