"""Field ownership (`metadata.managedFields`) and server-side apply. Pure.

Fields are a trie in Kubernetes' notation (`f:spec` → `f:replicas` → {}; items of associative lists are `k:{…}`, members
of sets `v:…`; `.` is the item itself). A write transfers ownership of the changed fields to its manager. An apply owns
all fields of its configuration; fields that it no longer contains are removed unless another manager owns them. It
conflicts if it would change a field of another manager.
"""

from __future__ import annotations

from typing import Any

import msgspec

from deploy.devcluster.apiserver.kinds.builtin_schemas import Schema
from deploy.devcluster.apiserver.kinds.schema import clone
from deploy.devcluster.cluster_api import Obj

Trie = dict[str, Any]
Entry = dict[str, Any]

_TOP = {"apiVersion", "kind"}
_KEY_DEFAULTS = {"protocol": "TCP"}
"""Defaults of list keys: a port without a protocol is the same item as one with TCP."""
_SYSTEM = {
    "name",
    "namespace",
    "uid",
    "resourceVersion",
    "generation",
    "creationTimestamp",
    "deletionTimestamp",
    "deletionGracePeriodSeconds",
    "managedFields",
    "selfLink",
    "generateName",
}
"""Fields of `metadata` without an owner: the API server sets them."""


def strip(obj: Obj) -> Obj:
    """The object without fields that have no owner."""
    bare = {key: value for key, value in obj.items() if key not in _TOP}
    metadata = {key: value for key, value in (obj.get("metadata") or {}).items() if key not in _SYSTEM}
    if metadata:
        bare["metadata"] = metadata
    else:
        bare.pop("metadata", None)
    return bare


def _below(schema: Schema, key: str) -> Schema:
    found = (schema.get("properties") or {}).get(key)
    if found is None:
        found = schema.get("additionalProperties")
    return found if isinstance(found, dict) else {}


def _keyed(schema: Schema, items: list[Any]) -> dict[str, Any] | None:
    """The items of an associative list by their step in a trie, or None if the list is atomic."""
    listed = schema.get("x-kubernetes-list-type")
    if listed == "set":
        return {f"v:{msgspec.json.encode(item).decode()}": item for item in items}
    if listed != "map":
        return None
    steps: dict[str, Any] = {}
    for item in items:
        if not isinstance(item, dict):
            return None
        key: dict[str, Any] = {}
        for name in schema.get("x-kubernetes-list-map-keys") or ():
            value = item.get(name, _KEY_DEFAULTS.get(name))
            if value is not None:
                key[name] = value
        steps[f"k:{msgspec.json.encode(key, order='sorted').decode()}"] = item
    return steps if len(steps) == len(items) else None


def fields_of(value: Any, schema: Schema) -> Trie:
    """All fields of a value."""
    if isinstance(value, dict) and value and schema.get("x-kubernetes-map-type") != "atomic":
        return {f"f:{key}": fields_of(item, _below(schema, key)) for key, item in value.items()}
    if isinstance(value, list) and value:
        steps = _keyed(schema, value)
        if steps is not None:
            items = schema.get("items") or {}
            return {step: _item_fields(step, item, items) for step, item in steps.items()}
    return {}


def changed(old: Any, new: Any, schema: Schema) -> Trie | None:
    """Fields of `new` that differ from `old`; None if `new` shows no difference."""
    if old is new:
        return None
    if isinstance(old, dict) and isinstance(new, dict) and new and schema.get("x-kubernetes-map-type") != "atomic":
        return _changed_keys(old, new, schema)
    if isinstance(old, list) and isinstance(new, list):
        before, after = _keyed(schema, old), _keyed(schema, new)
        if before is not None and after:
            return _changed_items(before, after, schema.get("items") or {})
    return None if old == new else {}


def _changed_keys(old: dict[str, Any], new: dict[str, Any], schema: Schema) -> Trie | None:
    trie: Trie = {}
    for key, item in new.items():
        if key not in old:
            trie[f"f:{key}"] = fields_of(item, _below(schema, key))
        elif (below := changed(old[key], item, _below(schema, key))) is not None:
            trie[f"f:{key}"] = below
    return trie or None


def _changed_items(before: dict[str, Any], after: dict[str, Any], items: Schema) -> Trie | None:
    """The same for associative lists, whose items are given by their steps in a trie."""
    trie: Trie = {}
    for step, item in after.items():
        if step not in before:
            trie[step] = _item_fields(step, item, items)
        elif (below := changed(before[step], item, items)) is not None:
            trie[step] = below
    return trie or None


def _item_fields(step: str, item: Any, items: Schema) -> Trie:
    """Fields of an item of an associative list; a member of a set (`v:`) is one field."""
    return {".": {}, **fields_of(item, items)} if step.startswith("k:") else {}


def union(first: Trie, second: Trie) -> Trie:
    """Fields of either trie."""
    joined = dict(first)
    for step, below in second.items():
        joined[step] = union(joined[step], below) if step in joined else below
    return joined


def without(first: Trie, second: Trie) -> Trie:
    """Fields of the first trie that are not in the second."""
    rest: Trie = {}
    for step, below in first.items():
        if step not in second:
            rest[step] = below
        elif below and (left := without(below, second[step])):
            rest[step] = left
    return rest


def within(trie: Trie, value: Any, schema: Schema) -> Trie:
    """The fields of a trie that a value still has; removed fields have no owner."""
    kept: Trie = {}
    steps: dict[str, tuple[Any, Schema]] = {}
    if isinstance(value, dict):
        steps = {f"f:{key}": (item, _below(schema, key)) for key, item in value.items()}
    elif isinstance(value, list):
        items = schema.get("items") or {}
        steps = {step: (item, items) for step, item in (_keyed(schema, value) or {}).items()}
    for step, below in trie.items():
        if step == ".":
            kept[step] = below
        elif step in steps:
            left = within(below, *steps[step])
            if left or not below:
                kept[step] = left
    return kept


def _paths(trie: Trie, at: tuple[str, ...] = ()) -> list[tuple[str, ...]]:
    if not trie:
        return [at]
    return [path for step, below in trie.items() for path in _paths(below, (*at, step))]


def _spell(path: tuple[str, ...]) -> str:
    parts: list[str] = []
    for step in path:
        if step.startswith("f:"):
            parts.append(f".{step[2:]}")
        elif step.startswith("k:"):
            key = msgspec.json.decode(step[2:])
            parts.append("[" + ",".join(f"{k}={msgspec.json.encode(v).decode()}" for k, v in key.items()) + "]")
        elif step.startswith("v:"):
            parts.append(f"[={step[2:]}]")
    return "".join(parts)


def _remove(value: Any, trie: Trie, schema: Schema) -> Any:
    """The value without the fields of a trie."""
    if isinstance(value, dict):
        return _remove_keys(value, trie, schema)
    keyed = _keyed(schema, value) if isinstance(value, list) else None
    if keyed is None:
        return value
    items = schema.get("items") or {}
    kept: list[Any] = []
    for step, item in keyed.items():
        if step not in trie:
            kept.append(item)
        elif trie[step] and "." not in trie[step]:
            kept.append(_remove(item, trie[step], items))
    return kept


def _remove_keys(value: dict[str, Any], trie: Trie, schema: Schema) -> dict[str, Any]:
    left = dict(value)
    for step, below in trie.items():
        key = step[2:]
        if not step.startswith("f:") or key not in left:
            continue
        trimmed = _remove(left[key], below, _below(schema, key)) if below else None
        if trimmed is None or (trimmed in ({}, []) and left[key] not in ({}, [])):
            left.pop(key)
        else:
            left[key] = trimmed
    return left


class FieldManager(msgspec.Struct, frozen=True):
    """The manager of a write, with subresource, API version and time."""

    manager: str
    subresource: str
    api_version: str
    now: str


class ManagedFields:
    """`managedFields` of one object during a write."""

    def __init__(self, entries: list[Entry] | None, schema: Schema) -> None:
        self.entries: list[Entry] = [dict(entry) for entry in entries or ()]
        self._schema = schema

    def _find(self, writer: FieldManager, operation: str) -> Entry | None:
        wanted = (writer.manager, operation, writer.subresource)
        for entry in self.entries:
            if (entry.get("manager"), entry.get("operation"), entry.get("subresource", "")) == wanted:
                return entry
        return None

    def _put(self, writer: FieldManager, operation: str, trie: Trie) -> None:
        entry = self._find(writer, operation)
        if entry is not None:
            self.entries.remove(entry)
        if not trie:
            return
        fresh: Entry = {
            "manager": writer.manager,
            "operation": operation,
            "apiVersion": writer.api_version,
            "time": writer.now,
            "fieldsType": "FieldsV1",
            "fieldsV1": trie,
        }
        if writer.subresource:
            fresh["subresource"] = writer.subresource
        # The most recent manager is last: the ingestor reads the last entry as the author of a change.
        self.entries.append(fresh)

    def _take(self, trie: Trie, *, keep: Entry | None = None) -> None:
        for entry in list(self.entries):
            if entry is keep:
                continue
            entry["fieldsV1"] = without(entry.get("fieldsV1") or {}, trie)
            if not entry["fieldsV1"]:
                self.entries.remove(entry)

    def _prune(self, new: Obj, old: Obj | None = None) -> None:
        """Drop fields that `new` no longer has. A part that `new` shares with `old` was pruned by an earlier write."""
        bare = strip(new)
        same = {f"f:{key}" for key, item in bare.items() if old is not None and old.get(key) is item}
        for entry in list(self.entries):
            fields: Trie = entry.get("fieldsV1") or {}
            kept = within({step: below for step, below in fields.items() if step not in same}, bare, self._schema)
            entry["fieldsV1"] = {step: below if step in same else kept[step] for step, below in fields.items()
                                 if step in same or step in kept}  # fmt: skip
            if not entry["fieldsV1"]:
                self.entries.remove(entry)

    def update(self, old: Obj | None, new: Obj, writer: FieldManager) -> None:
        """Record an update from `old` to `new`."""
        touched = changed(strip(old), strip(new), self._schema) if old else fields_of(strip(new), self._schema)
        self._prune(new, old)
        mine = self._find(writer, "Update")
        if touched is None:
            # The write only removed fields. Its manager is still the most recent one.
            self._put(writer, "Update", (mine or {}).get("fieldsV1") or {})
            return
        self._take(touched, keep=mine)
        self._put(writer, "Update", union((mine or {}).get("fieldsV1") or {}, touched))

    def apply(
        self, old: Obj | None, applied: Obj, writer: FieldManager, *, force: bool
    ) -> tuple[Obj, list[tuple[str, str]]]:
        """Server-side apply. Returns the merged object, and the conflicts as (field, manager)."""
        wanted = fields_of(strip(applied), self._schema)
        mine = self._find(writer, "Apply")
        live = old or {}
        differing = changed(strip(live), strip(merge_applied(live, applied, self._schema)), self._schema) or {}
        contested = _shared(wanted, differing)
        conflicts = [
            (_spell(path), str(entry.get("manager")))
            for entry in self.entries
            if entry is not mine and entry.get("subresource", "") == writer.subresource
            for path in _paths(_shared(contested, entry.get("fieldsV1") or {}))
            if path
        ]
        if conflicts and not force:
            return live, conflicts
        merged = merge_applied(self._without_abandoned(live, mine, wanted), applied, self._schema)
        if conflicts:
            self._take(contested, keep=mine)
        self._prune(merged)
        self._put(writer, "Apply", wanted)
        return merged, []

    def _without_abandoned(self, live: Obj, mine: Entry | None, wanted: Trie) -> Obj:
        """The object without fields that only this manager owned, and no longer applies."""
        if mine is None:
            return live
        abandoned = without(mine.get("fieldsV1") or {}, wanted)
        for entry in self.entries:
            if entry is not mine:
                abandoned = without(abandoned, entry.get("fieldsV1") or {})
        return _remove(live, abandoned, self._schema)


def _shared(first: Trie, second: Trie) -> Trie:
    """Fields of both tries; a leaf covers everything below it in the other."""
    both: Trie = {}
    for step, below in first.items():
        if step not in second:
            continue
        other = second[step]
        if not below or not other:
            both[step] = {}
        elif deeper := _shared(below, other):
            both[step] = deeper
    both.pop(".", None) if len(both) > 1 else None
    return both


def merge_applied(live: Any, applied: Any, schema: Schema) -> Any:
    """Merge the applied configuration into the live object: maps and associative lists merge, other values replace."""
    if isinstance(live, dict) and isinstance(applied, dict) and schema.get("x-kubernetes-map-type") != "atomic":
        merged = dict(live)
        for key, item in applied.items():
            merged[key] = merge_applied(live.get(key), item, _below(schema, key))
        return merged
    if isinstance(live, list) and isinstance(applied, list):
        before, after = _keyed(schema, live), _keyed(schema, applied)
        if before is not None and after is not None:
            items = schema.get("items") or {}
            kept = [merge_applied(item, after[step], items) if step in after else item for step, item in before.items()]
            return [*kept, *(clone(item) for step, item in after.items() if step not in before)]
    return clone(applied)
