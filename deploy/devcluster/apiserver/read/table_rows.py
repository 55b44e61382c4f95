"""Other forms of objects: `Table` rows, as `kubectl get` requests them, and `PartialObjectMetadata`. Pure."""

from __future__ import annotations

from typing import Any

from deploy.devcluster.apiserver.kinds.kind_registry import KindVersion, PrinterColumn
from deploy.devcluster.cluster_api import Obj

_TYPES = {"date": "string"}


def _definition(column: PrinterColumn) -> dict[str, Any]:
    return {
        "name": column.name,
        "type": _TYPES.get(column.type, column.type),
        "format": column.format,
        "description": column.description or column.name,
        "priority": column.priority,
    }


def partial(obj: Obj) -> Obj:
    """The `PartialObjectMetadata` of an object."""
    return {"kind": "PartialObjectMetadata", "apiVersion": "meta.k8s.io/v1", "metadata": obj["metadata"]}


def row(version: KindVersion, obj: Obj, now: float, include: str) -> dict[str, Any]:
    """One row; `include` selects the object in it: `None`, `Metadata` or `Object`."""
    made: dict[str, Any] = {"cells": [column.cell(obj, now) for column in version.columns]}
    if include == "Object":
        made["object"] = obj
    elif include != "None":
        made["object"] = partial(obj)
    return made


def table(version: KindVersion, rows: list[dict[str, Any]], metadata: dict[str, Any], *, head: bool = True) -> Obj:
    """A `Table` of rows."""
    return {
        "kind": "Table",
        "apiVersion": "meta.k8s.io/v1",
        "metadata": metadata,
        "columnDefinitions": [_definition(column) for column in version.columns] if head else None,
        "rows": rows,
    }
