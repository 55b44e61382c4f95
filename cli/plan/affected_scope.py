"""Computes which proxies a change can affect, so that a plan compiles these and not the whole mesh.

Policy is local: apart from mesh-wide settings, a proxy's configuration depends on its own namespace and on the
namespaces that traffic targets let its account call. So a changed target affects the accounts that it names, a changed
route group affects those of the targets that name it, and any other object affects its namespace and the accounts that
may call into it. Where that does not hold (permissive mode, identity bindings, pins, objects without a namespace or of
the mesh itself), the change affects every proxy. The result is an upper bound: the compiler then computes the
differences.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import TypeVar

import msgspec

from cli.history.archive import About
from cli.history.object_states import ObjectSelection
from cli.history.timeline import LoggedEvent
from shared.io.decoding import UndecodableError
from shared.io.decoding import decode as decode_json
from shared.names import MESH_CONFIG
from shared.policy.decode import decode
from shared.policy.errors import PolicyError
from shared.policy.model import MeshConfig, TrafficTarget
from shared.policy.object_name import ObjectName
from shared.projected_objects import ANNOTATION_CALLS, ANNOTATION_PERMISSIVE, Namespace, Pod, PolicyObject
from shared.records.events import Event, ObjectKey
from shared.records.pins import PIN_KIND

_ROUTES = frozenset({"HTTPRouteGroup", "TCPRoute", "UDPRoute"})
_LOCAL = frozenset({"TrafficTarget", "TrafficSplit", "Service", "EndpointSlice", "Pod", *_ROUTES})
"""Kinds whose objects affect some proxies, not all."""
_DECIDING = frozenset({"HTTPRouteGroup", "IdentityBinding", "MeshConfig", "Namespace", "TrafficTarget", PIN_KIND})
"""Kinds that are read in all namespaces to find which proxies a change affects and which requests to ask about."""

S = TypeVar("S", Namespace, Pod, PolicyObject)
Objects = Mapping[ObjectKey, LoggedEvent]


class AffectedScope(msgspec.Struct, frozen=True):
    """Some proxies, and the objects that they are compiled from."""

    part: ObjectSelection
    """Every object that the configuration of these proxies can depend on."""
    accounts: frozenset[ObjectName]
    namespaces: frozenset[str]
    """The proxies are those of these accounts, and all in these namespaces."""

    def serves(self, state: Objects, proposed: Iterable[Event]) -> Callable[[ObjectName], bool]:
        """Return a predicate: whether a pod is one of these proxies in the state, or if the events are applied."""
        homes = {account.namespace for account in self.accounts}
        pods = {
            ObjectName(event.namespace, event.name)
            for event in (*(item.event for item in state.values()), *proposed)
            if event.kind == "Pod"
            and (event.namespace in self.namespaces or (event.namespace in homes and _account(event) in self.accounts))
        }
        return pods.__contains__


def part_to_ask(about: About, proposed: Iterable[ObjectKey]) -> ObjectSelection:
    """Return the objects that `affected_scope` needs."""
    return ObjectSelection(frozenset({"", about.namespace, *(key.namespace for key in proposed)}), _DECIDING)


def affected_scope(about: About, state: Objects, proposed: Iterable[Event]) -> AffectedScope | None:
    """Return the scope of events on top of a state (at least its `part_to_ask`), or None if they affect every proxy."""
    changes = list(proposed)
    if any(event.kind not in _LOCAL or event.namespace == about.namespace for event in changes):
        return None
    if any(_reaches_far(about, item.event) for item in state.values()):
        return None
    targets = [*_targets(item.event for item in state.values()), *_targets(changes)]
    named = [_named(event, targets, state, changes) for event in changes]
    namespaces = {event.namespace for event, accounts in zip(changes, named, strict=True) if accounts is None}
    accounts = {account for found in named for account in found or ()}
    for where, target in targets:
        if {where.namespace, target.destination.namespace} & namespaces:
            accounts.update(target.sources)
    needed = {*namespaces, *(account.namespace for account in accounts), *(event.namespace for event in changes)}
    for where, target in targets:
        if any(source in accounts or source.namespace in namespaces for source in target.sources):
            needed.update((where.namespace, target.destination.namespace))
    part = ObjectSelection(frozenset({"", about.namespace, *needed}))
    return AffectedScope(part, frozenset(accounts), frozenset(namespaces))


def _named(
    event: Event, targets: list[tuple[ObjectName, TrafficTarget]], state: Objects, changes: list[Event]
) -> set[ObjectName] | None:
    """Return the accounts that a change affects, or None if it affects its namespace and all that call into it."""
    if event.kind == "TrafficTarget":
        found = [target for name, target in targets if name == (event.namespace, event.name)]
    elif event.kind in _ROUTES and not _is_split(state, changes, event.namespace):
        found = [
            target
            for where, target in targets
            if where.namespace == event.namespace
            and any(rule.kind == event.kind and rule.name == event.name for rule in target.rules)
        ]
    else:
        return None
    return {account for target in found for account in (target.destination, *target.sources)}


def _reaches_far(about: About, event: Event) -> bool:
    """Whether an object extends the effect of a change to every proxy."""
    if event.object is None:
        return False
    if event.kind in {PIN_KIND, "IdentityBinding"}:
        return True
    try:
        if event.kind == "Namespace":
            annotations = _read(event, Namespace).metadata.annotations
            return ANNOTATION_PERMISSIVE in annotations or ANNOTATION_CALLS in annotations
        if event.kind != "MeshConfig" or (event.namespace, event.name) != (about.namespace, MESH_CONFIG):
            return False
        config = decode(event.kind, event.api_version, _read(event, PolicyObject))
    except (PolicyError, UndecodableError):
        return True
    return not isinstance(config, MeshConfig) or config.permissive


def _targets(events: Iterable[Event]) -> Iterable[tuple[ObjectName, TrafficTarget]]:
    """Yield the traffic targets that can be decoded; the others grant nothing."""
    for event in events:
        if event.kind != "TrafficTarget" or event.object is None:
            continue
        try:
            target = decode(event.kind, event.api_version, _read(event, PolicyObject))
        except (PolicyError, UndecodableError):
            continue
        if isinstance(target, TrafficTarget):
            yield ObjectName(event.namespace, event.name), target


def _is_split(state: Objects, changes: Iterable[Event], namespace: str) -> bool:
    """Whether a namespace has traffic splits, which may name route groups too."""
    every = (*(item.event for item in state.values()), *changes)
    return any(event.kind == "TrafficSplit" and event.namespace == namespace for event in every)


def _account(event: Event) -> ObjectName | None:
    if event.object is None:
        return None
    try:
        return ObjectName(event.namespace, _read(event, Pod).spec.service_account_name or "default")
    except UndecodableError:
        return None


def _read(event: Event, kind: type[S]) -> S:
    """Decode the object of an event. Raises `UndecodableError`."""
    return decode_json(kind, event.object or b"")
