"""The difference between the compiled result and what is published: a commit, or nothing at all."""

from __future__ import annotations

from collections.abc import Iterable

import msgspec

from services.compiler.core.result import CompiledResult, Names, PendingChanges
from services.compiler.time_slices import Steps
from shared.records.snapshot import (
    FORMAT,
    Cause,
    Commit,
    Quarantined,
    Resource,
    ResourceId,
    Snapshot,
    ViewChange,
    record_causes,
)


class CommitMetadata(msgspec.Struct, frozen=True):
    """What a commit states about itself: version, origin and causes."""

    version: int
    epoch: str
    build: str
    causes: tuple[Cause, ...] = ()
    traceparents: tuple[str, ...] = ()


def everything(derived: CompiledResult, published: Snapshot) -> PendingChanges:
    """Everything that may differ: what is compared if the pending changes are unknown, as after a restart."""
    return PendingChanges(
        classes=dict.fromkeys([*derived.views, *published.views]),
        proxies={*derived.proxies, *published.proxies},
        bodies={*derived.bodies(), *published.resources},
    )


def _view_change(before: Names, after: Names, touched: Iterable[tuple[str, str]]) -> ViewChange | None:
    put: dict[str, dict[str, str]] = {}
    dropped: dict[str, list[str]] = {}
    for type_url, name in sorted(touched):
        old, new = before.get(type_url, {}).get(name), after.get(type_url, {}).get(name)
        if new is None:
            if old is not None:
                dropped.setdefault(type_url, []).append(name)
        elif old != new:
            put.setdefault(type_url, {})[name] = new
    return ViewChange(put=put, dropped=dropped) if put or dropped else None


def _views(
    derived: CompiledResult, published: Snapshot, touched: PendingChanges
) -> Steps[dict[str, ViewChange | None]]:
    changes: dict[str, ViewChange | None] = {}
    for workload_class in sorted(touched.classes):
        yield
        after = derived.views.get(workload_class)
        before = published.views.get(workload_class)
        if after is None:
            if before is not None:
                changes[workload_class] = None
            continue
        names = touched.classes[workload_class]
        if names is None:
            names = {(type_url, name) for view in (before or {}, after) for type_url in view for name in view[type_url]}
        change = _view_change(before or {}, after, names)
        if change is not None or before is None:
            changes[workload_class] = change or ViewChange(put={})
    return changes


def difference(
    derived: CompiledResult,
    quarantine: list[Quarantined],
    published: Snapshot,
    touched: PendingChanges,
    stamp: CommitMetadata,
    *,
    recording: bool = True,
    always: bool = False,
) -> Steps[Commit | None]:
    """The commit that leads from `published` to the compiled result; none if nothing differs, but `always`. In steps.

    The first commit of all is made even if it is empty: from then on edges know that there is nothing to serve.
    """
    resources: list[Resource] = []
    retired: list[ResourceId] = []
    for identity in sorted(touched.bodies):
        body = derived.body(identity)
        held = identity in published.resources
        if body is not None and not held:
            recorded = record_causes(derived.causes(identity) if recording else [])
            resources.append(Resource(*identity, body=body, recorded=recorded))
            yield
        elif body is None and held:
            retired.append(identity)
    views = yield from _views(derived, published, touched)
    proxies = {
        key: derived.proxies.get(key)
        for key in sorted(touched.proxies)
        if derived.proxies.get(key) != published.proxies.get(key)
    }
    first = published.version == 0
    differs = quarantine != published.quarantine, derived.members != published.mesh_namespaces
    if not (resources or retired or views or proxies or any(differs) or first or always):
        return None
    return Commit(
        format=FORMAT,
        version=stamp.version,
        parent=published.version,
        epoch=stamp.epoch,
        build=stamp.build,
        resources=resources,
        retired=retired,
        views=views,
        proxies=proxies,
        quarantine=quarantine if differs[0] else None,
        causes=list(stamp.causes),
        traceparents=list(stamp.traceparents),
        trust_domain=derived.mesh.settings.trust_domain,
        mesh_namespaces=list(derived.members) if differs[1] or first else None,
    )
