"""What a small mesh puts out, in bytes: what its sidecars are sent, a new pod, and what the CA is told to issue."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import yaml

from services.ca.core.cluster_state import ClusterState
from services.compiler.core.compiler import Compiler
from services.compiler.mesh_state import MeshSettings
from services.injector.core.patch import with_sidecar
from shared.identity.service_account_tokens import TokenVerifier
from shared.meshconfig.pods import read_mesh_spec
from shared.records.events import Event
from shared.records.snapshot import Snapshot
from tests.unit.compiler import objects
from tests.unit.identity.cluster import Cluster
from tests.unit.injector import pods

CRDS = Path(__file__).parents[3] / "deploy" / "crds"
Json = dict[str, Any]


def schema_of(name: str) -> Json:
    crd = yaml.safe_load((CRDS / name).read_text())
    return crd["spec"]["versions"][0]["schema"]["openAPIV3Schema"]["properties"]["spec"]


def leaves(schema: Json, path: str = "") -> Iterator[tuple[str, Json]]:
    """Every field that holds a value, and its schema; what is in a list is written `list[].field`."""
    if (items := schema.get("items", {})).get("properties"):
        schema, path = items, f"{path}[]"
    properties: Json = schema.get("properties") or {}
    if not properties:
        yield path, schema
    for name, each in properties.items():
        yield from leaves(each, f"{path}.{name}" if path else name)


class Mesh:
    """A compiler that is kept, so that a flip costs no more than what it changes."""

    def __init__(self, events: Sequence[Event]) -> None:
        self._compiler = Compiler(MeshSettings(cluster=objects.CLUSTER))
        self._snapshot = Snapshot()
        self._sequence = 0
        self.take(*events)

    def take(self, *events: Event) -> str:
        """Fold, and say what every sidecar is sent, in bytes."""
        for event in events:
            self._sequence += 1
            self._compiler.fold(event, self._sequence, epoch="e")
        commit = self._compiler.commit(self._snapshot)
        if commit is not None:
            self._snapshot.apply(commit)
        views = {key: self._snapshot.views[proxy.workload_class] for key, proxy in self._snapshot.proxies.items()}
        return json.dumps([views, self._snapshot.trust_domain], sort_keys=True)


def config(spec: Json | None) -> Event:
    if spec is None:
        return objects.deleted("MeshConfig", "meshlog-system", "osm-mesh-config")
    version = "config.openservicemesh.io/v1alpha2"
    return objects.policy(
        "MeshConfig", "meshlog-system", "osm-mesh-config", spec, api_version=version, created="2026-01-01T00:00:00Z"
    )


def injected(spec: Json, **annotations: str) -> str:
    return json.dumps(with_sidecar(pods.pod(**annotations), pods.INSTALLATION, read_mesh_spec(spec)), sort_keys=True)


CLUSTER = Cluster(now=1_700_000_000.0)


def issued(spec: Json) -> str:
    """What the CA is told of certificates: all of what the MeshConfig reaches in it."""
    facts = ClusterState(
        TokenVerifier(clock=lambda: CLUSTER.now),
        cluster=CLUSTER.name,
        mesh_name="meshlog",
        mesh_namespace="meshlog-system",
    )
    facts.apply(CLUSTER.config_event(spec))
    return repr((facts.lifetime, facts.key_type, facts.gateway))
