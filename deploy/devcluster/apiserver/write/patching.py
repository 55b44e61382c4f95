"""Applies patches: JSON merge patch (RFC 7386), JSON patch (RFC 6902), strategic merge patch (Kubernetes). Pure.

Each function returns a new document. A strategic merge patch needs the merge keys in the schema of the kind; `kubectl
apply` sends its directives `$patch`, `$setElementOrder`, `$deleteFromPrimitiveList` and `$retainKeys`.
"""

from __future__ import annotations

from typing import Any

import msgspec

from deploy.devcluster.apiserver.kinds.builtin_schemas import Schema
from deploy.devcluster.apiserver.kinds.schema import clone
from deploy.devcluster.apiserver.status_errors import StatusError, bad_request, shown

_MAX_OPERATIONS = 10_000


def merge(document: Any, patch: Any) -> Any:
    """JSON merge patch (RFC 7386): objects merge, null removes, other values replace."""
    if not isinstance(patch, dict):
        return clone(patch)
    merged = dict(document) if isinstance(document, dict) else {}
    for key, value in patch.items():
        if value is None:
            merged.pop(key, None)
        else:
            merged[key] = merge(merged.get(key), value)
    return merged


# --- JSON patch ---------------------------------------------------------------------------------------------------


def json_patch(document: Any, operations: Any) -> Any:
    """JSON patch (RFC 6902). Raises 400 if it is malformed, 422 if it does not apply to the document."""
    if not isinstance(operations, list):
        raise bad_request("json: cannot unmarshal object into Go value of type jsonpatch.Patch")
    if len(operations) > _MAX_OPERATIONS:
        many = f"The allowed maximum operations in a JSON patch is {_MAX_OPERATIONS}, got {len(operations)}"
        raise StatusError(413, "RequestEntityTooLarge", many)
    # The document is wrapped, so that a path may also name the whole document.
    root: dict[str, Any] = {"": clone(document)}
    for operation in operations:
        if not isinstance(operation, dict) or not isinstance(operation.get("path"), str):
            raise bad_request(f"{shown(operation)} is no operation of a JSON patch")
        try:
            _operate(root, operation)
        except (KeyError, IndexError, TypeError, ValueError) as error:
            raise StatusError(422, "Invalid", f"the server rejected our request: {_why(operation, error)}") from error
    return root[""]


def _why(operation: dict[str, Any], error: Exception) -> str:
    reason = str(error.args[0]) if error.args and isinstance(error, ValueError) else "there is no such path"
    return f"{operation.get('op')} operation on {shown(operation['path'])}: {reason}"


def _steps(pointer: str) -> list[str]:
    if pointer and not pointer.startswith("/"):
        raise ValueError("a path starts with /")
    return ["", *(step.replace("~1", "/").replace("~0", "~") for step in pointer.split("/")[1:])]


def _index(step: str, target: list[Any], *, inserting: bool = False) -> int:
    if step == "-" and inserting:
        return len(target)
    if not step.isascii() or not step.isdigit() or (len(step) > 1 and step[0] == "0"):
        raise ValueError(f"{step!r} is no index")
    index = int(step)
    if index >= len(target) + inserting:
        raise IndexError(index)
    return index


def _get(at: Any, step: str) -> Any:
    if isinstance(at, list):
        return at[_index(step, at)]
    if not isinstance(at, dict):
        raise TypeError(step)
    return at[step]


def _walk(root: dict[str, Any], pointer: str) -> tuple[Any, str]:
    *path, last = _steps(pointer)
    at: Any = root
    for step in path:
        at = _get(at, step)
    return at, last


def _read(root: dict[str, Any], pointer: str) -> Any:
    at, last = _walk(root, pointer)
    return _get(at, last)


def _add(root: dict[str, Any], pointer: str, value: Any) -> None:
    at, last = _walk(root, pointer)
    if isinstance(at, list):
        at.insert(_index(last, at, inserting=True), value)
    elif isinstance(at, dict):
        at[last] = value
    else:
        raise TypeError(pointer)


def _remove(root: dict[str, Any], pointer: str) -> Any:
    at, last = _walk(root, pointer)
    if isinstance(at, list):
        return at.pop(_index(last, at))
    if not isinstance(at, dict):
        raise TypeError(pointer)
    return at.pop(last)


def _operate(root: dict[str, Any], operation: dict[str, Any]) -> None:
    path = operation["path"]
    match operation.get("op"):
        case "add":
            _add(root, path, clone(operation["value"]))
        case "remove":
            if not path:
                raise ValueError("the whole object cannot be removed")
            _remove(root, path)
        case "replace":
            at, last = _walk(root, path)
            _get(at, last)
            at[_index(last, at) if isinstance(at, list) else last] = clone(operation["value"])
        case "move":
            if f"{path}/".startswith(f"{operation['from']}/") and path != operation["from"]:
                raise ValueError("a value cannot move into itself")
            _add(root, path, _remove(root, operation["from"]))
        case "copy":
            _add(root, path, clone(_read(root, operation["from"])))
        case "test":
            found, wanted = _read(root, path), operation.get("value")
            if msgspec.json.encode(found, order="sorted") != msgspec.json.encode(wanted, order="sorted"):
                raise ValueError(f"testing value {shown(wanted)} failed")
        case other:
            raise ValueError(f"Unexpected kind: {shown(other)}")


# --- strategic merge patch ----------------------------------------------------------------------------------------

_ORDER, _DELETE, _RETAIN, _PATCH = "$setElementOrder/", "$deleteFromPrimitiveList/", "$retainKeys", "$patch"


def strategic(document: Any, patch: Any, schema: Schema) -> Any:
    """Strategic merge patch, with the merge keys in `schema`. Raises 400 if the patch is malformed."""
    if not isinstance(patch, dict):
        raise bad_request("a strategic merge patch is an object")
    return _merge_object(dict(document) if isinstance(document, dict) else {}, patch, schema)


def _merge_object(document: dict[str, Any], patch: dict[str, Any], schema: Schema) -> dict[str, Any]:
    match patch.get(_PATCH):
        case "replace":
            return {key: clone(value) for key, value in patch.items() if key != _PATCH}
        case "delete":
            return {}
        case None | "merge":
            return _merge_fields(document, patch, schema)
        case directive:
            raise bad_request(f"Unknown patch type: {shown(directive)}")


def _merge_fields(document: dict[str, Any], patch: dict[str, Any], schema: Schema) -> dict[str, Any]:
    retained = patch.get(_RETAIN)
    if isinstance(retained, list):
        document = {key: value for key, value in document.items() if key in retained}
    properties: dict[str, Schema] = schema.get("properties") or {}
    other = schema.get("additionalProperties")
    for key, value in patch.items():
        if key in {_PATCH, _RETAIN} or key.startswith((_ORDER, _DELETE)):
            continue
        if value is None or _is_deletion(value):
            document.pop(key, None)
        else:
            below = properties.get(key) or (other if isinstance(other, dict) else {})
            document[key] = _merge_value(document.get(key), value, below, patch.get(_ORDER + key))
    _follow_directives(document, patch, properties)
    return document


def _is_deletion(value: Any) -> bool:
    return isinstance(value, dict) and value.get(_PATCH) == "delete"


def _merge_value(current: Any, value: Any, schema: Schema, order: Any) -> Any:
    if isinstance(value, dict):
        return _merge_object(dict(current) if isinstance(current, dict) else {}, value, schema)
    if isinstance(value, list):
        return _merge_list(current, value, schema, order)
    return value


def _follow_directives(document: dict[str, Any], patch: dict[str, Any], properties: dict[str, Schema]) -> None:
    """Apply deletions from lists of primitives, and the order of lists that the patch does not contain."""
    for key, value in patch.items():
        if key.startswith(_DELETE):
            name = key.removeprefix(_DELETE)
            gone = value if isinstance(value, list) else []
            if isinstance(document.get(name), list):
                document[name] = [item for item in document[name] if item not in gone]
        elif key.startswith(_ORDER):
            name = key.removeprefix(_ORDER)
            if name not in patch and isinstance(document.get(name), list):
                document[name] = _ordered(document[name], value, _merge_key(properties.get(name) or {}))


def _merge_key(schema: Schema) -> str | None:
    """The merge key of a list: empty for a list of primitives, None if the list is replaced."""
    return schema.get("x-kubernetes-patch-merge-key")


def _merge_list(current: Any, patch: list[Any], schema: Schema, order: Any) -> list[Any]:
    key = _merge_key(schema)
    replaced = any(isinstance(item, dict) and item.get(_PATCH) == "replace" for item in patch)
    if key is None or replaced:
        return [clone(item) for item in patch if not (isinstance(item, dict) and _PATCH in item)]
    merged: list[Any] = list(current) if isinstance(current, list) else []
    items: Schema = schema.get("items") or {}
    for item in patch:
        if key:
            _merge_item(merged, item, key, items)
        elif item not in merged:
            merged.append(item)
    return _ordered(merged, order, key)


def _merge_item(merged: list[Any], item: Any, key: str, schema: Schema) -> None:
    """Merge an item of a patch into the item with the same merge key. Raises 400 if it has no merge key."""
    if not isinstance(item, dict) or key not in item:
        raise bad_request(f"map: {shown(item)} does not contain declared merge key: {key}")
    index = next((i for i, one in enumerate(merged) if isinstance(one, dict) and one.get(key) == item[key]), None)
    if _is_deletion(item):
        if index is not None:
            merged.pop(index)
    elif index is None:
        merged.append(_merge_object({}, item, schema))
    else:
        merged[index] = _merge_object(dict(merged[index]), item, schema)


def _ordered(items: list[Any], order: Any, key: str | None) -> list[Any]:
    """Sort the items in `order` among themselves; other items keep their positions."""
    if not isinstance(order, list) or key is None:
        return items

    def mark(item: Any) -> Any:
        return item.get(key) if key and isinstance(item, dict) else item

    rank = {_hashable(mark(item)): index for index, item in enumerate(order)}
    listed = iter(sorted((i for i in items if _hashable(mark(i)) in rank), key=lambda i: rank[_hashable(mark(i))]))
    return [next(listed) if _hashable(mark(item)) in rank else item for item in items]


def _hashable(value: Any) -> Any:
    return value if isinstance(value, (str, int, float, bool, type(None))) else msgspec.json.encode(value)
