"""Converts manifests into the events that applying them would append, by the ingestor's own projection."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import msgspec

from cli.history.archive import About
from cli.history.timeline import LoggedEvent
from cli.kubernetes.api_client import Manifest
from cli.kubernetes.manifest_files import ObjectId
from services.ingestor.core.kinds import is_followed
from services.ingestor.core.projection import UnreadableObjectError, project
from shared.errors import BadInputError
from shared.projected_objects import KINDS
from shared.records.events import APPLIED, DELETED, SCHEMA, Event, ObjectKey

_CLUSTER_SCOPED = frozenset({"Namespace", "TokenIssuer"})


class Proposal(msgspec.Struct, frozen=True):
    """The proposed changes."""

    events: list[Event]
    ignored: list[str]
    """Objects that change no proxy by themselves: a Deployment (its pods do), or the MeshConfig of another mesh."""


def propose(
    about: About, state: Mapping[ObjectKey, LoggedEvent], put: Sequence[Manifest], drop: Sequence[ObjectId]
) -> Proposal:
    """Return the events of applying `put` and deleting `drop`. Raises `BadInputError`."""
    events: list[Event] = []
    ignored: list[str] = []
    for manifest in put:
        key = _key(about, manifest)
        if key.kind not in KINDS or not is_followed(key.kind, key.namespace, key.name, mesh_namespace=about.namespace):
            ignored.append(str(key))
            continue
        events.append(_applied(key, manifest, state.get(key)))
    for kind, namespace, name in drop:
        key = ObjectKey(about.cluster, kind, namespace, name)
        held = state.get(key)
        if held is None:
            raise BadInputError("plan/unknown", "is not there, so it cannot be deleted", about=str(key))
        events.append(msgspec.structs.replace(held.event, operation=DELETED, object=None))
    return Proposal(events, ignored)


def keys_of(about: About, put: Sequence[Manifest], drop: Sequence[ObjectId]) -> list[ObjectKey]:
    """Return the keys of the objects that are applied or deleted."""
    return [*(_key(about, manifest) for manifest in put), *(ObjectKey(about.cluster, *one) for one in drop)]


def _key(about: About, manifest: Manifest) -> ObjectKey:
    metadata = manifest["metadata"]
    namespace = "" if manifest["kind"] in _CLUSTER_SCOPED else metadata.get("namespace") or "default"
    return ObjectKey(about.cluster, manifest["kind"], namespace, metadata["name"])


def _applied(key: ObjectKey, manifest: Manifest, held: LoggedEvent | None) -> Event:
    """Return the event; an existing object keeps the fields set by the API server: identity, age, addresses."""
    given: dict[str, Any] = {"uid": f"planned-{key.kind}-{key.name}", "creationTimestamp": "9999-01-01T00:00:00Z"}
    spec = manifest.get("spec")
    if held is not None and held.event.object is not None:
        past = msgspec.json.decode(held.event.object, type=dict[str, Any])
        given = {name: past["metadata"][name] for name in ("uid", "creationTimestamp") if name in past["metadata"]}
        if key.kind == "Service" and isinstance(spec, dict):
            addresses = {name: past["spec"][name] for name in ("clusterIP", "clusterIPs") if name in past["spec"]}
            spec = {**addresses, **spec}
    metadata = {**manifest["metadata"], **given}
    if key.namespace:
        metadata["namespace"] = key.namespace
    whole = {**manifest, "metadata": metadata, **({"spec": spec} if spec is not None else {})}
    try:
        found = project(key.kind, msgspec.json.encode(whole), api_version=manifest["apiVersion"], source="operator")
    except UnreadableObjectError as error:
        raise BadInputError("plan/unreadable", error.sentence, about=str(key)) from error
    return Event(
        schema=SCHEMA,
        cluster=key.cluster,
        kind=key.kind,
        namespace=key.namespace,
        name=key.name,
        uid=str(given.get("uid", "")),
        resource_version="planned",
        operation=APPLIED,
        api_version=found.api_version,
        object=msgspec.Raw(found.body),
        withheld=found.withheld,
        why=found.why,
    )
