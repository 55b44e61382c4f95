"""Traffic splits in force: at most one for each root service, read against the services that exist."""

from __future__ import annotations

from services.compiler.derive.policy.route_groups import route_group
from services.compiler.derive.services.offers import is_sticky, port, ports
from services.compiler.engine import query
from services.compiler.ir import PortSplit, Route, Share
from services.compiler.mesh_state import MeshState
from shared.policy.model import HttpMatch
from shared.policy.object_name import ObjectName


@query
def split_of(mesh: MeshState, root: ObjectName) -> ObjectName | None:
    """The split in force for a root service: the oldest wins, then the first by name."""
    candidates: list[tuple[str, str]] = []
    for name in mesh.splits_by_root.get(root):
        split = mesh.splits.get(name)
        if split is not None:
            candidates.append((split.created, name.name))
    return ObjectName(root.namespace, min(candidates)[1]) if candidates else None


@query
def split_matches(mesh: MeshState, name: ObjectName) -> tuple[HttpMatch, ...] | None:
    """Which HTTP requests a split spreads; none: all."""
    split = mesh.splits.get(name)
    if split is None or not split.matches:
        return None
    found: list[HttpMatch] = []
    for group_name in split.matches:
        group = route_group(mesh, ObjectName(name.namespace, group_name))
        found.extend(group.matches if group else ())
    return tuple(found)


@query
def port_split(mesh: MeshState, root: ObjectName, number: int) -> PortSplit | None:
    """How calls to one port of a service are spread; none: they are not, they go to its own endpoints."""
    name = split_of(mesh, root)
    split = None if name is None else mesh.splits.get(name)
    if name is None or split is None:
        return None
    shares = [
        Share(ObjectName(root.namespace, backend.service), backend.weight)
        for backend in split.backends
        if port(mesh, ObjectName(root.namespace, backend.service), number) is not None
    ]
    return PortSplit(shares=tuple(sorted(shares)), matches=split_matches(mesh, name))


@query
def roots_over(mesh: MeshState, backend: ObjectName) -> tuple[ObjectName, ...]:
    """Root services whose split in force names a backend. Sorted."""
    found: set[ObjectName] = set()
    for name in mesh.splits_by_backend.get(backend):
        split = mesh.splits.get(name)
        if split is not None:
            root = ObjectName(name.namespace, split.root)
            if split_of(mesh, root) == name:
                found.add(root)
    return tuple(sorted(found))


@query
def route(mesh: MeshState, service: ObjectName, number: int) -> Route | None:
    """The route of one port of a service; none if there is no such port."""
    found = port(mesh, service, number)
    if found is None:
        return None
    split = port_split(mesh, service, number)
    reached = (service, *(share.service for share in (split.shares if split is not None else ())))
    sticky = any(is_sticky(mesh, backend) for backend in reached)
    return Route(service, number, found.protocol, split, sticky)


@query
def routes(mesh: MeshState, service: ObjectName) -> tuple[Route, ...]:
    """The routes of every port of a service."""
    found = (route(mesh, service, item.number) for item in ports(mesh, service))
    return tuple(item for item in found if item is not None)
