"""Compiles a folder of manifests, for `meshlog compile` and `meshlog check`."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, cast

import msgspec

from cli.calls.directory import Directory
from cli.kubernetes.manifest_files import read_manifests
from cli.kubernetes.manifest_types import shaped
from cli.offline.simulated_cluster import CLUSTER, Manifest, cluster_of
from services.compiler.core.offline import compile_events
from services.compiler.mesh_state import MeshSettings
from shared.errors import BadInputError
from shared.meshconfig.spec_problems import doubts
from shared.names import MESH_CONFIG, MESH_NAMESPACE
from shared.policy import support_matrix
from shared.policy.budgets import budgets_of
from shared.records.events import Event
from shared.records.snapshot import Proxy, Snapshot
from shared.service.settings import CommonSettings, load

_BUDGETS = "MESHLOG_BUDGETS"
"""The environment variable of the services' budgets, so that results equal theirs."""


class CompiledFiles(msgspec.Struct, frozen=True):
    """The manifests as a simulated cluster, and the configuration that its proxies would receive."""

    events: list[Event]
    snapshot: Snapshot
    directory: Directory
    settings: MeshSettings
    doubts: list[str]
    """Warnings on accepted manifests that may not have the intended effect."""

    def proxy(self, text: str) -> Proxy:
        """The proxy of `NS/POD` (or `NS/WORKLOAD`). Raises `BadInputError` if there is none."""
        kind, name = self.directory.named(text)
        found = self.snapshot.proxies.get(self.directory.key(name)) if kind == "pod" else None
        if found is None:
            raise BadInputError(
                "compile/no-proxy",
                f"pod {name} has no sidecar: its namespace must be a member of the mesh and ask for injection",
            )
        return found


def compile_files(paths: Iterable[Path], *, mesh_name: str, trust_domain: str) -> CompiledFiles:
    """Compile the manifests of files and folders. Raises `BadInputError` for a file that cannot be read."""
    manifests: list[Manifest] = shaped([one for path in paths for one in read_manifests(path)])
    configs = [one for one in manifests if one["kind"] == "MeshConfig" and one["metadata"]["name"] == MESH_CONFIG]
    # The mesh's namespace is that of its MeshConfig.
    namespace = (configs[0]["metadata"].get("namespace") if configs else "") or MESH_NAMESPACE
    events = cluster_of(manifests, mesh_name=mesh_name, mesh_namespace=namespace)
    common = load(
        CommonSettings, [], {_BUDGETS: os.environ[_BUDGETS]} if _BUDGETS in os.environ else {}, command="meshlog"
    )
    settings = MeshSettings(
        cluster=CLUSTER,
        mesh_name=mesh_name,
        namespace=namespace,
        trust_domain=trust_domain,
        budgets=budgets_of(common.budgets),
    )
    return CompiledFiles(
        events=events,
        snapshot=compile_events(events, settings),
        directory=Directory(events, cluster=CLUSTER),
        settings=settings,
        doubts=[*admission_warnings(manifests, namespace)],
    )


def admission_warnings(manifests: Iterable[Manifest], namespace: str) -> Iterator[str]:
    """The warnings of admission; `namespace` is the mesh's own."""
    for one in manifests:
        kind, spec = one["kind"], one.get("spec")
        if kind not in support_matrix.KINDS or not isinstance(spec, dict):
            continue
        metadata = one["metadata"]
        about = f"{kind} {metadata.get('namespace') or 'default'}/{metadata['name']}"
        if said := support_matrix.sentence(support_matrix.findings(kind, cast("dict[str, Any]", spec))):
            yield f"{about}: {said}"
        if kind == "MeshConfig" and (metadata.get("namespace"), metadata["name"]) == (namespace, MESH_CONFIG):
            yield from (f"{about}: {doubt}" for doubt in doubts(cast("dict[str, Any]", spec)))
