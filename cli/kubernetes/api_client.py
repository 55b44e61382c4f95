"""A small client of the Kubernetes API, so that the command starts fast: apply, read, delete, wait."""

from __future__ import annotations

import asyncio
import re
import time
from collections.abc import AsyncGenerator, Callable, Mapping
from contextlib import asynccontextmanager
from typing import Any

import aiohttp
import msgspec

from cli.kubernetes.kubeconfig import ApiAccess
from cli.kubernetes.manifest_files import Manifest
from shared.errors import BadInputError, MeshlogError
from shared.io.decoding import UndecodableError, decode_any

FIELD_MANAGER = "meshlog"
_WARNING = re.compile(r'\d{3} \S+ "((?:[^"\\]|\\.)*)"')
"""A warning of RFC 9111, section 5.5: code, agent, text."""
_MOST_WARNINGS = 20
_ANSWERS = 30.0
"""Seconds for one request and its answer."""
_SILENT = f"silent for {_ANSWERS:g} s"


class ApiRefusedError(MeshlogError):
    """The API server refused a request, or did not answer; a refusal has the server's own sentence."""


class AppliedObject(msgspec.Struct, frozen=True):
    """One object as the API returned it."""

    kind: str
    namespace: str
    name: str
    uid: str
    resource_version: str
    manifest: Manifest
    """The object as the API stores it."""
    warnings: tuple[str, ...] = ()
    """Warnings of admission webhooks."""


class Api:
    """One session with an API server. Open it with `connect`."""

    def __init__(self, session: aiohttp.ClientSession, access: ApiAccess) -> None:
        self._session = session
        self._server = access.server
        self._tls = access.tls()
        self._headers = {"Authorization": f"Bearer {access.token}"} if access.token else {}
        self._resources: dict[tuple[str, str], tuple[str, bool]] = {}
        self._warnings: list[str] = []

    async def request(
        self,
        method: str,
        path: str,
        *,
        body: Any = None,
        content_type: str = "application/json",
        params: Mapping[str, str] | None = None,
    ) -> tuple[int, Any]:
        """Send a request; returns the status and the decoded body. Raises `ApiRefusedError` if no server answers."""
        try:
            async with self._session.request(
                method,
                f"{self._server}{path}",
                data=None if body is None else msgspec.json.encode(body),
                params=params,
                ssl=self._tls,
                headers={**self._headers, "Content-Type": content_type},
            ) as response:
                raw = await response.read()
                self._warnings += _WARNING.findall(", ".join(response.headers.getall("Warning", ())))[:_MOST_WARNINGS]
        except (aiohttp.ClientError, TimeoutError) as error:
            raise ApiRefusedError(
                "api/unreachable",
                f"the Kubernetes API does not answer ({error or _SILENT}); is the mesh up?",
                about=self._server,
            ) from error
        try:
            return response.status, decode_any(raw) if raw else None
        except UndecodableError:
            return response.status, raw.decode("utf-8", "replace")

    async def path_of(self, manifest: Manifest, *, collection: bool = False) -> str:
        """The path of an object, by discovery; raises `BadInputError` if the server has no such kind."""
        root, plural, namespaced = await self._resource(manifest)
        namespace = f"/namespaces/{manifest['metadata'].get('namespace') or 'default'}" if namespaced else ""
        return f"{root}{namespace}/{plural}" + ("" if collection else f"/{manifest['metadata']['name']}")

    async def namespace_of(self, manifest: Manifest) -> str:
        """The namespace of an object on the server; empty for a kind of the whole cluster."""
        _, _, namespaced = await self._resource(manifest)
        return str(manifest["metadata"].get("namespace") or "default") if namespaced else ""

    async def _resource(self, manifest: Manifest) -> tuple[str, str, bool]:
        """The API path of a kind, its plural, and whether it is namespaced."""
        api_version, kind = manifest["apiVersion"], manifest["kind"]
        root = f"/api/{api_version}" if "/" not in api_version else f"/apis/{api_version}"
        if (api_version, kind) not in self._resources:
            status, listing = await self.request("GET", root)
            for resource in listing["resources"] if status == 200 else []:
                if "/" not in resource["name"]:
                    self._resources[api_version, resource["kind"]] = (resource["name"], resource["namespaced"])
        if (api_version, kind) not in self._resources:
            raise BadInputError("api/kind", f"the server has no kind {kind} in {api_version}", about=_called(manifest))
        plural, namespaced = self._resources[api_version, kind]
        return root, plural, namespaced

    async def apply(self, manifest: Manifest, *, manager: str = FIELD_MANAGER) -> AppliedObject:
        """Server-side apply; raises `BadInputError` with the server's sentence if the object is refused."""
        self._warnings.clear()
        status, answer = await self.request(
            "PATCH",
            await self.path_of(manifest),
            body=manifest,
            content_type="application/apply-patch+yaml",
            params={"fieldManager": manager, "force": "true"},
        )
        return _applied(manifest, status, answer, tuple(dict.fromkeys(self._warnings)))

    async def dry_run(self, manifest: Manifest, *, manager: str = FIELD_MANAGER) -> Manifest:
        """The object as the server would store it, admitted and with its defaults; nothing is changed.

        Raises `BadInputError` with the server's sentence if it, or an admission webhook, refuses the object.
        """
        status, answer = await self.request(
            "PATCH",
            await self.path_of(manifest),
            body=manifest,
            content_type="application/apply-patch+yaml",
            params={"fieldManager": manager, "force": "true", "dryRun": "All"},
        )
        if status not in {200, 201}:
            raise _refusal(manifest, status, answer)
        return answer

    async def delete(self, manifest: Manifest) -> None:
        """Delete an object, if it exists."""
        status, answer = await self.request("DELETE", await self.path_of(manifest))
        if status not in {200, 202, 404}:
            raise _refusal(manifest, status, answer)

    async def get(self, path: str, *, params: Mapping[str, str] | None = None) -> Any:
        """Read a path; raises `ApiRefusedError` unless it exists."""
        status, answer = await self.request("GET", path, params=params)
        if status != 200:
            raise ApiRefusedError("api/refused", _sentence(answer, status), about=path)
        return answer

    async def wait(self, path: str, condition: Callable[[Any], bool], *, within: float, what: str) -> Any:
        """Read `path` until `condition` holds for the answer; raises `ApiRefusedError` after `within` seconds.

        Polls four times a second: a watch would cost more code than it saves in the few waits of a command.
        """
        deadline = time.monotonic() + within
        while True:
            status, answer = await self.request("GET", path)
            if status == 200 and condition(answer):
                return answer
            if time.monotonic() > deadline:
                raise ApiRefusedError("api/timeout", f"{what}: not within {within:g} s", about=path)
            await asyncio.sleep(0.25)


def _called(manifest: Manifest) -> str:
    metadata = manifest["metadata"]
    prefix = f"{metadata['namespace']}/" if metadata.get("namespace") else ""
    return f"{manifest['kind']} {prefix}{metadata['name']}"


def _sentence(answer: Any, status: int) -> str:
    if isinstance(answer, dict) and "message" in answer:
        return str(answer["message"])  # pyright: ignore[reportUnknownArgumentType]
    return f"HTTP {status}: {str(answer)[:300]}"


def _refusal(manifest: Manifest, status: int, answer: Any) -> MeshlogError:
    kind = BadInputError if 400 <= status < 500 else ApiRefusedError
    return kind("api/refused", f"the API server refuses it: {_sentence(answer, status)}", about=_called(manifest))


def _applied(manifest: Manifest, status: int, answer: Any, warnings: tuple[str, ...]) -> AppliedObject:
    if status not in {200, 201}:
        raise _refusal(manifest, status, answer)
    metadata = answer["metadata"]
    return AppliedObject(
        kind=manifest["kind"],
        namespace=metadata.get("namespace", ""),
        name=metadata["name"],
        uid=metadata["uid"],
        resource_version=metadata["resourceVersion"],
        manifest={"apiVersion": manifest["apiVersion"], "kind": manifest["kind"], **answer},
        warnings=warnings,
    )


@asynccontextmanager
async def connect(access: ApiAccess) -> AsyncGenerator[Api]:
    """A session with the API server, closed at the end."""
    async with aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=_ANSWERS)) as session:
        yield Api(session, access)
