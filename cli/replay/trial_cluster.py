"""A devcluster for testing past policy: workloads from manifests, and the policy of one version.

The log holds what configures proxies, not images and commands. So the workloads are applied from manifests once. Then
policy and routing are set to those of each version in turn, as a rollback would.
"""

from __future__ import annotations

import asyncio
import os
import subprocess
from collections.abc import Iterable
from contextlib import AbstractAsyncContextManager
from pathlib import Path
from typing import Any

from cli.embedded import lifecycle
from cli.history import yaml_text
from cli.history.timeline import LoggedEvent
from cli.kubernetes import kubeconfig
from cli.kubernetes.api_client import Api, Manifest, connect
from cli.kubernetes.manifest_files import ObjectId, id_of
from shared.errors import MeshlogError
from shared.records.pins import PINNED_KINDS
from shared.service.interpreter import module

_READY_WITHIN = 120.0
_MARK = "meshlog-bisect"
"""A route group that no target names: once it has arrived, so have the objects applied with it."""


class TrialCluster:
    """One separate embedded mesh, in a folder of its own."""

    def __init__(self, state: Path) -> None:
        self.state = state
        self._there: dict[ObjectId, Manifest] = {}

    @property
    def environment(self) -> dict[str, str]:
        """Environment of commands that use this mesh."""
        return {"MESHLOG_STATE": str(self.state), "KUBECONFIG": str(self.state / lifecycle.KUBECONFIG)}

    async def open(self, workloads: list[Manifest]) -> None:
        """Start the mesh and wait until the workloads are ready. Raises `MeshlogError`."""
        await self._run("up", "--edges", "1")
        await self._apply(workloads, "workloads")
        namespaces = {one["metadata"].get("namespace", "default") for one in workloads if one["kind"] == "Deployment"}
        async with self._api() as api:
            for namespace in sorted(namespaces):
                path = f"/apis/apps/v1/namespaces/{namespace}/deployments"
                await api.wait(path, _ready, within=_READY_WITHIN, what=f"the workloads of {namespace} are ready")

    async def put_on(self, version: int, state: Iterable[LoggedEvent]) -> None:
        """Set policy and routing to those of a version, and wait until every proxy has them. Raises `MeshlogError`."""
        policy = [_manifest(item) for item in state if item.event.kind in PINNED_KINDS]
        wanted = {id_of(one): one for one in policy}
        async with self._api() as api:
            for key in self._there.keys() - wanted.keys():
                await api.delete(self._there[key])
        self._there = wanted
        mark = {
            "apiVersion": "specs.smi-spec.io/v1alpha4",
            "kind": "HTTPRouteGroup",
            "metadata": {"name": _MARK, "namespace": "default"},
            "spec": {"matches": [{"name": f"version-{version}", "pathRegex": "/"}]},
        }
        await self._apply([*policy, mark], f"policy-{version}", "--wait")

    async def close(self) -> None:
        """Stop the mesh."""
        await self._run("down")

    def _api(self) -> AbstractAsyncContextManager[Api]:
        return connect(kubeconfig.read(self.state / lifecycle.KUBECONFIG))

    async def _apply(self, manifests: list[Manifest], name: str, *options: str) -> None:
        path = self.state.with_name(f"{name}.yaml")
        text = "---\n".join(yaml_text.yaml_of(one) for one in manifests)
        await asyncio.to_thread(path.write_text, text, encoding="utf-8")
        await self._run("apply", "-f", str(path), *options)

    async def _run(self, *argv: str) -> None:
        process = await asyncio.create_subprocess_exec(
            *module("cli", *argv),
            env={**os.environ, **self.environment},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
        )
        output, _ = await process.communicate()
        if process.returncode:
            last = output.decode("utf-8", "replace").strip().rpartition("\n")[2]
            raise MeshlogError("bisect/devcluster", f"`meshlog {argv[0]}` failed on the devcluster: {last}")


def _ready(listing: Any) -> bool:
    items: list[dict[str, Any]] = listing["items"]
    return all(one.get("status", {}).get("availableReplicas", 0) >= one["spec"].get("replicas", 1) for one in items)


def _manifest(item: LoggedEvent) -> Manifest:
    """Return an object of the log as a manifest: without the fields that an API server sets."""
    body = yaml_text.object_of(item)
    kept = ("name", "namespace", "labels", "annotations")
    return {**body, "metadata": {name: body["metadata"][name] for name in kept if name in body["metadata"]}}
