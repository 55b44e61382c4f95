"""Fold events into the state: the first of the compiler's three pure steps.

An object that cannot be read is set aside under a stable code, and everything else goes on. What stays in force of
it meanwhile is what is safe: of policy that grants calls nothing, because its user may have meant to revoke; of
everything else the last good form, because a typing error must not end traffic.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any, TypeVar, cast

import msgspec

from services.compiler import address_claims
from services.compiler.engine_inputs import InputMap
from services.compiler.mesh_state import MeshState, SelectorPair
from shared.io.decoding import UndecodableError, decode_by
from shared.membership import mesh_of
from shared.policy.budgets import Budgets, judge_object
from shared.policy.decode import POLICY_KINDS, outline
from shared.policy.errors import PolicyError
from shared.policy.model import IdentityBinding, Policy, RouteGroup, TrafficSplit, TrafficTarget
from shared.policy.object_name import ObjectName
from shared.projected_objects import KINDS, LABEL_SERVICE_NAME, EndpointSlice, Namespace, Pod, PolicyObject, Service
from shared.records.events import DELETED, Event
from shared.records.snapshot import Cause, Quarantined
from shared.records.unreadable import why
from shared.records.withheld import GRANTING, closed, said

V = TypeVar("V")

_DECODERS = {kind: msgspec.json.Decoder(struct) for kind, struct in KINDS.items()}


def reduce(mesh: MeshState, event: Event, sequence: int) -> None:
    """Fold one event in. Kinds that change no configuration are noted and change nothing."""
    key = event.key
    if event.operation == DELETED or event.object is None:
        mesh.causes.pop(key, None)
        mesh.rejected.pop(key, None)
        _store(mesh, event, None, None)
        return
    cause = Cause(key=key, uid=event.uid, resource_version=event.resource_version, sequence=sequence)
    mesh.causes[key] = cause
    try:
        value = _read(event, mesh.settings.budgets)
    except _BeyondBudgetError as error:
        mesh.rejected[key] = Quarantined(key=key, code=error.code, sentence=error.sentence)
        _store(mesh, event, error.closed, cause)
        return
    except PolicyError as error:
        code, sentence = said(event.kind, event.withheld, event.why) if event.withheld else (error.code, error.sentence)
        mesh.rejected[key] = Quarantined(key=key, code=code, sentence=sentence)
        if event.kind in GRANTING:
            _store(mesh, event, None, None)
        return
    mesh.rejected.pop(key, None)
    if event.withheld:
        code, sentence = said(event.kind, event.withheld, event.why)
        mesh.rejected[key] = Quarantined(key=key, code=code, sentence=sentence)
    _store(mesh, event, value, cause)


class _BeyondBudgetError(PolicyError):
    """An object that is no policy has too much of something: its closed form stands for it."""

    def __init__(self, error: PolicyError, stands_for_it: object) -> None:
        super().__init__(error.code, error.sentence)
        self.closed = stands_for_it


def _read(event: Event, budgets: Budgets) -> object:
    """The object of an event, policy already in its model; none for kinds that the compiler does not know."""
    decoder = _DECODERS.get(event.kind)
    if decoder is None or event.object is None:
        return None
    try:
        value = decode_by(decoder, event.object)
    except UndecodableError as error:
        raise PolicyError("object/unreadable", f"cannot be read as a {event.kind} ({why(error)})") from error
    if event.kind not in POLICY_KINDS:
        try:
            judge_object(value, budgets)
        except PolicyError as error:
            raise _BeyondBudgetError(error, closed(event.kind, value)) from error
        return value
    try:
        # Expressions are compiled later, and only as many as the namespace's budget allows (`derive.groups`).
        return outline(event.kind, event.api_version, cast("PolicyObject", value), budgets)
    except PolicyError:
        raise
    except Exception as error:  # a bug of ours, but one object must not stop the mesh: it is named like any bad one
        raise PolicyError("compiler/failed", f"cannot be compiled ({type(error).__name__}: {error})") from error


def _store(mesh: MeshState, event: Event, value: object, cause: Cause | None) -> None:
    store = _STORES.get(event.kind)
    if store is not None:
        store(mesh, ObjectName(event.namespace, event.name), value, cause)


def _swap(objects: InputMap[ObjectName, V], name: ObjectName, value: V | None, cause: Cause | None) -> V | None:
    """Put or drop an object; returns what stood there before."""
    before = objects.peek(name)
    if value is None:
        objects.drop(name)
    else:
        objects.put(name, value, cause)
    return before


def _store_namespace(mesh: MeshState, name: ObjectName, value: Namespace | None, cause: Cause | None) -> None:
    before = mesh.namespaces.peek(name.name)
    if value is None:
        mesh.namespaces.drop(name.name)
    else:
        mesh.namespaces.put(name.name, value, cause)

    def keys(namespace: Namespace | None) -> Iterable[str]:
        mesh_name = mesh_of(namespace.metadata.labels) if namespace else None
        return () if mesh_name is None else (mesh_name,)

    mesh.namespaces_of_mesh.move(name.name, keys(before), keys(value))


def selector_key(service: Service | None) -> Iterable[SelectorPair]:
    """Under which label of a pod a service is looked up: the first pair of its selector."""
    if service is None or not service.spec.selector:
        return ()
    return (SelectorPair(service.metadata.namespace, *min(service.spec.selector.items())),)


def _store_service(mesh: MeshState, name: ObjectName, value: Service | None, cause: Cause | None) -> None:
    before = _swap(mesh.services, name, value, cause)
    mesh.services_by_selector.move(name, selector_key(before), selector_key(value))
    mesh.services_of_namespace.move(name, _namespace_if(name, before), _namespace_if(name, value))
    mesh.services_by_address.move(name, address_claims.of_service(before), address_claims.of_service(value))


def _service_of(piece: EndpointSlice | None) -> Iterable[ObjectName]:
    service = piece.metadata.labels.get(LABEL_SERVICE_NAME) if piece else None
    return (ObjectName(piece.metadata.namespace, service),) if piece and service else ()


def _pods_in(piece: EndpointSlice | None) -> Iterable[ObjectName]:
    if piece is None:
        return ()
    found = (address_claims.pod_behind(piece, endpoint) for endpoint in piece.endpoints)
    return {pod for pod in found if pod is not None}


def _leads_to_the_same(before: EndpointSlice, value: EndpointSlice) -> bool:
    """Whether a slice names the same service and pods as before: readiness, which flaps, is most of what happens."""
    named = [endpoint.target_ref for endpoint in value.endpoints]
    return before.metadata == value.metadata and named == [endpoint.target_ref for endpoint in before.endpoints]


def _store_slice(mesh: MeshState, name: ObjectName, value: EndpointSlice | None, cause: Cause | None) -> None:
    before = _swap(mesh.slices, name, value, cause)
    if before is not None and value is not None and _leads_to_the_same(before, value):
        return
    mesh.slices_of_service.move(name, _service_of(before), _service_of(value))
    for service in {*_service_of(before), *_service_of(value)}:
        mesh.services_naming_pod.move(
            (service, name),
            _pods_in(before) if service in _service_of(before) else (),
            _pods_in(value) if service in _service_of(value) else (),
        )


def _store_pod(mesh: MeshState, name: ObjectName, value: Pod | None, cause: Cause | None) -> None:
    before = _swap(mesh.pods, name, value, cause)

    def keys(pod: Pod | None) -> Iterable[ObjectName]:
        return () if pod is None else (ObjectName(name.namespace, pod.spec.service_account_name),)

    accounts = {account for account in (*keys(before), *keys(value)) if mesh.pods_of_account.holds(account)}
    mesh.pods_of_account.move(name, keys(before), keys(value))
    for account in {*keys(before), *keys(value)}:
        was, held = account in accounts, mesh.pods_of_account.holds(account)
        mesh.accounts_of_namespace.move(account, (name.namespace,) if was else (), (name.namespace,) if held else ())
    mesh.pods_of_namespace.move(name, _namespace_if(name, before), _namespace_if(name, value))
    mesh.pods_by_address.move(name, address_claims.of_pod(before), address_claims.of_pod(value))


def _namespace_if(name: ObjectName, value: object | None) -> Iterable[str]:
    return () if value is None else (name.namespace,)


def _store_binding(mesh: MeshState, name: ObjectName, value: IdentityBinding | None, cause: Cause | None) -> None:
    before = _swap(mesh.bindings, name, value, cause)
    mesh.bindings_of_namespace.move(name, _namespace_if(name, before), _namespace_if(name, value))


def _store_group(mesh: MeshState, name: ObjectName, value: RouteGroup | None, cause: Cause | None) -> None:
    before = _swap(mesh.route_groups, name, value, cause)
    mesh.groups_of_namespace.move(name, _namespace_if(name, before), _namespace_if(name, value))


def _store_target(mesh: MeshState, name: ObjectName, value: TrafficTarget | None, cause: Cause | None) -> None:
    before = _swap(mesh.targets, name, value, cause)
    mesh.targets_of_namespace.move(name, _namespace_if(name, before), _namespace_if(name, value))
    mesh.targets_by_source.move(name, before.sources if before else (), value.sources if value else ())
    mesh.targets_by_source_binding.move(
        name, before.source_bindings if before else (), value.source_bindings if value else ()
    )

    def destination(target: TrafficTarget | None, *, binding: bool) -> Iterable[ObjectName]:
        return (target.destination,) if target is not None and target.destination_is_binding == binding else ()

    mesh.targets_by_destination.move(name, destination(before, binding=False), destination(value, binding=False))
    mesh.targets_by_destination_binding.move(name, destination(before, binding=True), destination(value, binding=True))


def _store_split(mesh: MeshState, name: ObjectName, value: TrafficSplit | None, cause: Cause | None) -> None:
    before = _swap(mesh.splits, name, value, cause)

    def root(split: TrafficSplit | None) -> Iterable[ObjectName]:
        return (ObjectName(name.namespace, split.root),) if split else ()

    def backends(split: TrafficSplit | None) -> Iterable[ObjectName]:
        return [ObjectName(name.namespace, backend.service) for backend in split.backends] if split else ()

    mesh.splits_by_root.move(name, root(before), root(value))
    mesh.splits_by_backend.move(name, backends(before), backends(value))


def _store_root(mesh: MeshState, name: ObjectName, value: PolicyObject | None, cause: Cause | None) -> None:
    before = _swap(mesh.roots, name, value, cause)
    mesh.roots_of_namespace.move(
        name, () if before is None else (name.namespace,), () if value is None else (name.namespace,)
    )


_Store = Callable[[MeshState, ObjectName, Any, Cause | None], Any]


def _plain(pick: Callable[[MeshState], InputMap[ObjectName, Any]]) -> _Store:
    """A store for kinds that no index knows."""

    def store(mesh: MeshState, name: ObjectName, value: Policy | None, cause: Cause | None) -> None:
        _swap(pick(mesh), name, value, cause)

    return store


_STORES: dict[str, _Store] = {
    "Namespace": _store_namespace,
    "Service": _store_service,
    "EndpointSlice": _store_slice,
    "Pod": _store_pod,
    "TrafficTarget": _store_target,
    "IdentityBinding": _store_binding,
    "UDPRoute": _plain(lambda mesh: mesh.udp_routes),
    "HTTPRouteGroup": _store_group,
    "TCPRoute": _plain(lambda mesh: mesh.tcp_routes),
    "TrafficSplit": _store_split,
    "MeshConfig": _plain(lambda mesh: mesh.mesh_configs),
    "MeshRootCertificate": _store_root,
}
