"""Reads Kubernetes objects from YAML files, sorted so that they can be applied in order."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, cast

import msgspec
import yaml

from deploy.devcluster.cluster_api import Obj
from shared.errors import BadInputError

_FIRST = {"Namespace": 0, "CustomResourceDefinition": 1}


class Manifest(msgspec.Struct, frozen=True):
    """One object and its file."""

    source: Path
    obj: Obj

    @property
    def title(self) -> str:
        """File, kind and name, for messages."""
        metadata = self.obj.get("metadata") or {}
        return f"{self.source}: {self.obj.get('kind')} {metadata.get('name', '')}"


def read(paths: Sequence[Path]) -> list[Manifest]:
    """All objects of the files (of directories, their `*.yaml`): namespaces, definitions, then others as written.

    Raises `BadInputError` with the file, and the line if known.
    """
    found: list[Manifest] = []
    for path in paths:
        for file in sorted(path.glob("*.yaml")) if path.is_dir() else [path]:
            found += [Manifest(file, obj) for obj in _objects(file)]
    return sorted(found, key=lambda manifest: _FIRST.get(manifest.obj["kind"], len(_FIRST)))


def _objects(path: Path) -> Iterator[Obj]:
    try:
        documents: list[Any] = list(yaml.load_all(path.read_text(), Loader=yaml.CSafeLoader))
    except (OSError, UnicodeDecodeError) as error:
        raise BadInputError("devcluster/manifest", f"it cannot be read: {error}", about=str(path)) from error
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        where = f"line {mark.line + 1}: " if mark is not None else ""
        problem = getattr(error, "problem", None) or str(error)
        raise BadInputError("devcluster/manifest", f"{where}this is no YAML: {problem}", about=str(path)) from error
    for document in documents:
        if document is not None:
            yield from _expanded(path, document)


def _expanded(path: Path, document: Any) -> Iterator[Obj]:
    obj = cast("Obj", document) if isinstance(document, dict) else {}
    if not all(isinstance(obj.get(key), str) for key in ("apiVersion", "kind")):
        raise BadInputError("devcluster/manifest", "a document in it is no Kubernetes object", about=str(path))
    if obj["kind"] == "List":
        for item in obj.get("items") or []:
            yield from _expanded(path, item)
    else:
        yield obj
