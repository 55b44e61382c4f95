"""Explains why a proxy holds a resource: traces its bytes to objects, versions and authors.

The compiler records its reads. So the past is compiled again (only the namespaces that can matter), which must result
in the same bytes, and the reads of the resource are listed. That list is complete, but longer than a person wants: of
ten pods behind a service nine could be deleted and the bytes would stay. So each object is removed in turn. An object
*decides* if the bytes change without it; the others were *read*: their change, not only their removal, could matter.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, cast

import msgspec

from cli.history.archive import About
from cli.history.naming import class_of, type_name
from cli.history.object_states import LostHistoryError, ObjectSelection
from cli.history.recompile import settings_of
from cli.history.timeline import LoggedEvent, Timeline, in_force
from cli.history.yaml_text import decoded
from services.compiler.core.explain import ProxyExplanation
from services.compiler.envoy_names import INBOUND_LISTENER, OUTBOUND_LISTENER, ObjectName
from shared.errors import BadInputError
from shared.records import events
from shared.records.consistency import inconsistencies
from shared.records.events import ObjectKey
from shared.records.snapshot import LDS, Cause, Resource, ResourceId, Snapshot

MOST_TRIED = 400
"""Limit of the objects that are removed one by one; an answer with more of them is not split."""


class Reason(msgspec.Struct, frozen=True):
    """An object that a resource was compiled from."""

    cause: Cause
    happened: LoggedEvent | None
    """None if the log no longer keeps it."""


class AccessRule(msgspec.Struct, frozen=True):
    """A rule inside the resource, and the objects that it comes from."""

    name: str
    objects: list[ObjectKey]
    text: str


class Explanation(msgspec.Struct, frozen=True):
    """The cause of a resource of a proxy."""

    proxy: str
    resource: Resource
    version: int
    decides: list[Reason]
    read: list[Reason]
    rules: list[AccessRule]
    split: bool
    """Whether the deciding objects were separated from those that were only read."""
    inconsistent: list[str] = []
    """Inconsistencies of all that the proxy holds at this version, one sentence each; usually empty."""


async def why(timeline: Timeline, snapshot: Snapshot, proxy: str, type_url: str, name: str) -> Explanation:
    """Explain one resource of one proxy at the snapshot's version.

    Raises `BadInputError` if the proxy does not hold it, `LostHistoryError` if the log no longer keeps its causes.
    """
    view = snapshot.views[class_of(snapshot, proxy)]
    digest = view.get(type_url, {}).get(name)
    if digest is None:
        held = ", ".join(sorted(view.get(type_url, {}))) or "none"
        sentence = f"is not held by {proxy.partition('/')[2]}; of this type it holds: {held}"
        raise BadInputError("history/resource", sentence, about=f"{type_name(type_url)}/{name}")
    resource = snapshot.resources[type_url, name, digest]
    trial = RemovalTrial(timeline.source.about, proxy, (type_url, name, digest))
    about = timeline.source.about
    for part in (_part(about, snapshot, view, resource, proxy), None):
        state = in_force(await timeline.state(snapshot.version, part))
        compilation = trial.begin(state.values())
        if trial.holds(compilation):
            return _explained(trial, compilation, state, resource, snapshot)
    # An object that cannot be decoded leaves its last valid form in force, which is only in the events before it.
    events_before = [item async for item in timeline.history(until=snapshot.version)]
    compilation = trial.begin(events_before)
    if trial.holds(compilation):
        state = {item.event.key: item for item in events_before}
        return _explained(trial, compilation, state, resource, snapshot, most_tried=0)
    raise LostHistoryError(
        "history/build",
        f"version {snapshot.version} was made by build {snapshot.build}, and this one makes other bytes",
    )


def _explained(
    trial: RemovalTrial,
    compilation: ProxyExplanation,
    state: dict[ObjectKey, LoggedEvent],
    resource: Resource,
    snapshot: Snapshot,
    *,
    most_tried: int = MOST_TRIED,
) -> Explanation:
    ref = compilation.find((resource.type_url, resource.name, resource.hash))
    assert ref is not None
    made = {cause.key: cause for cause in compilation.made_from(ref)}
    reach = {cause.key: cause for cause in compilation.reached_by()}
    candidates = [state[key] for key in sorted({*made, *reach})]
    split = len(candidates) <= most_tried
    deciding = trial.deciding(compilation, candidates) if split else set(made)
    causes = {**reach, **made}
    return Explanation(
        proxy=trial.proxy,
        resource=resource,
        version=snapshot.version,
        decides=[Reason(causes[key], state[key]) for key in sorted(deciding)],
        read=[Reason(causes[key], state[key]) for key in sorted(made.keys() - deciding)],
        rules=rules(resource, state.values()),
        split=split,
        inconsistent=inconsistencies(snapshot, [class_of(snapshot, trial.proxy)]),
    )


def _part(
    about: About, snapshot: Snapshot, view: dict[str, dict[str, str]], resource: Resource, proxy: str
) -> ObjectSelection:
    """Select the namespaces that can matter: those that the resource and the outbound listener were compiled from.

    The causes recorded at that time may be older objects than those that the bytes depend on now. But they are of the
    same namespaces, or else the listener would differ. Inbound resources depend on the pod's own namespace: many other
    proxies may hold the same bytes, compiled from objects that do not matter here. The caller checks that the selection
    was sufficient.
    """
    outbound = view.get(LDS, {}).get(OUTBOUND_LISTENER)
    made = [snapshot.resources[LDS, OUTBOUND_LISTENER, outbound]] if outbound is not None else []
    if not resource.name.startswith((INBOUND_LISTENER, "local|")):
        made.append(resource)
    namespaces = {cause.key.namespace for one in made for cause in one.causes}
    return ObjectSelection(frozenset({"", about.namespace, proxy.split("/")[1], *namespaces}))


class RemovalTrial:
    """Tests whether a proxy would hold exactly this resource if other objects existed."""

    def __init__(self, about: About, proxy: str, identity: ResourceId) -> None:
        self.proxy = proxy
        _, namespace, pod = proxy.split("/")
        self.pod = ObjectName(namespace, pod)
        self._about = about
        self._identity = identity

    def begin(self, state: Iterable[LoggedEvent]) -> ProxyExplanation:
        """Return a compilation of a state."""
        compilation = ProxyExplanation(settings_of(self._about), self.pod)
        compilation.fold((item.event, item.sequence) for item in state)
        return compilation

    def holds(self, compilation: ProxyExplanation) -> bool:
        """Whether the proxy holds the resource in that state."""
        return compilation.find(self._identity) is not None

    def deciding(self, compilation: ProxyExplanation, candidates: list[LoggedEvent]) -> set[ObjectKey]:
        """Return the objects without which the proxy would not hold these bytes: each is removed, then restored."""
        found: set[ObjectKey] = set()
        for item in candidates:
            compilation.fold([(deletion(item.event), item.sequence)])
            if not self.holds(compilation):
                found.add(item.event.key)
            compilation.fold([(item.event, item.sequence)])
        return found


def deletion(event: events.Event) -> events.Event:
    """Return the event that deletes this object."""
    return msgspec.structs.replace(event, operation=events.DELETED, object=None, api_version="")


def rules(resource: Resource, state: Iterable[LoggedEvent]) -> list[AccessRule]:
    """Return the access rules in a resource, each with the TrafficTarget and the routes that it comes from."""
    by_name = {(item.event.kind, item.event.namespace, item.event.name): item for item in state}
    found: dict[str, AccessRule] = {}
    for name, policy in sorted(_policies(decoded(resource))):
        namespace, _, target = name.partition("/")
        objects: list[ObjectKey] = []
        item = by_name.get(("TrafficTarget", namespace, target))
        if item is not None:
            objects.append(item.event.key)
            for kind, route in _routes(item):
                routed = by_name.get((kind, namespace, route))
                if routed is not None:
                    objects.append(routed.event.key)
        found.setdefault(name, AccessRule(name=name, objects=objects, text=_sentence(policy)))
    return list(found.values())


def _routes(target: LoggedEvent) -> list[tuple[str, str]]:
    body = msgspec.json.decode(target.event.object or b"{}", type=dict[str, Any])
    spec: dict[str, Any] = body.get("spec") or {}
    return [
        (str(rule.get("kind")), str(rule.get("name"))) for rule in spec.get("rules") or [] if isinstance(rule, dict)
    ]  # pyright: ignore[reportUnknownArgumentType]


def _policies(value: Any) -> list[tuple[str, dict[str, Any]]]:
    """Return every `policies` map inside a message."""
    if isinstance(value, list):
        return [found for item in cast("list[Any]", value) for found in _policies(item)]
    if not isinstance(value, dict):
        return []
    found: list[tuple[str, dict[str, Any]]] = []
    for key, inner in cast("dict[str, Any]", value).items():
        if key == "policies" and isinstance(inner, dict):
            found.extend(cast("dict[str, dict[str, Any]]", inner).items())
        else:
            found.extend(_policies(inner))
    return found


def _sentence(policy: dict[str, Any]) -> str:
    callers = sorted(_leaves(policy.get("principals", []), "exact"))
    return "lets " + (", ".join(callers) if callers else "every member of the mesh") + " through"


def _leaves(value: Any, key: str) -> set[str]:
    if isinstance(value, list):
        return {leaf for item in cast("list[Any]", value) for leaf in _leaves(item, key)}
    if not isinstance(value, dict):
        return set()
    found: set[str] = set()
    for name, inner in cast("dict[str, Any]", value).items():
        found |= {inner} if name == key and isinstance(inner, str) else _leaves(inner, key)
    return found
