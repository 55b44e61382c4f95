"""Reads Kubernetes objects from YAML files that users name."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple, cast

from shared.errors import BadInputError
from shared.io.bounded_read import read_text
from shared.io.yaml_documents import documents

Manifest = dict[str, Any]


class ObjectId(NamedTuple):
    """An object of one cluster."""

    kind: str
    namespace: str
    """Empty if it is in none."""
    name: str


def id_of(manifest: Manifest) -> ObjectId:
    """Which object a manifest describes."""
    metadata = manifest["metadata"]
    return ObjectId(manifest["kind"], metadata.get("namespace", ""), metadata["name"])


_TEXTS = ("name", "namespace", "generateName", "uid", "resourceVersion", "creationTimestamp", "deletionTimestamp")
_MAPS = ("labels", "annotations")


def _none(_document: object) -> None:
    """Convert no document: only Kubernetes objects are accepted."""


def read_manifests(path: Path, *, foreign: Callable[[object], Manifest | None] = _none) -> list[Manifest]:
    """Every object of a YAML file (or of the files of a folder, by name), in order; a List is its items.

    `foreign` may turn a document that is no Kubernetes object into one. Raises `BadInputError` that names the file,
    the line and the mistake.
    """
    try:
        files = sorted(file for file in path.glob("*.y*ml") if not file.is_dir()) if path.is_dir() else None
    except OSError as error:
        raise BadInputError("manifest/unreadable", f"cannot be read: {error.strerror}", about=str(path)) from error
    if files is not None:
        return [manifest for file in files for manifest in read_manifests(file, foreign=foreign)]
    found = documents(read_text(path, code="manifest/unreadable"), code="manifest/yaml", about=str(path))
    manifests: list[Manifest] = []
    for index, document in enumerate(found, 1):
        if document is None:
            continue
        known = foreign(document)
        if known is not None:
            manifests.append(known)
        else:
            manifests += _items(document, f"document {index}", path)
    return manifests


def _items(document: object, where: str, path: Path) -> list[Manifest]:
    """A document as objects: itself, or the items of a List such as `kubectl get -o yaml` prints."""
    if not isinstance(document, dict):
        raise BadInputError("manifest/object", f"{where} is no Kubernetes object: it is no mapping", about=str(path))
    manifest = cast("Manifest", document)
    api_version, kind = manifest.get("apiVersion"), manifest.get("kind")
    if not isinstance(api_version, str) or not isinstance(kind, str) or not api_version or not kind:
        sentence = f"{where} is no Kubernetes object: it needs apiVersion and kind"
        raise BadInputError("manifest/object", sentence, about=str(path))
    metadata = manifest.get("metadata")
    items = manifest.get("items")
    if kind.endswith("List") and isinstance(items, list) and not (isinstance(metadata, dict) and metadata.get("name")):
        of_list = {} if kind == "List" else {"apiVersion": api_version, "kind": kind.removesuffix("List")}
        return [
            one
            for number, item in enumerate(cast("list[object]", items), 1)
            for one in _items(
                {**of_list, **cast("Manifest", item)} if isinstance(item, dict) else item,
                f"{where}, item {number}",
                path,
            )
        ]
    if not isinstance(metadata, dict) or not metadata.get("name"):
        raise BadInputError("manifest/name", f"{where} has no metadata.name", about=str(path))
    _check_metadata(cast("dict[str, Any]", metadata), where, str(path))
    return [manifest]


def _check_metadata(metadata: dict[str, Any], where: str, about: str) -> None:
    for name in _TEXTS:
        value = metadata.get(name)
        if value is not None and not isinstance(value, str):
            raise BadInputError(
                "manifest/metadata", f"{where}: metadata.{name} must be text, not {_kind(value)}", about=about
            )
    for name in _MAPS:
        value = metadata.get(name)
        if value is None:
            continue
        if not isinstance(value, dict) or not all(isinstance(each, str) for each in value.values()):
            raise BadInputError(
                "manifest/metadata", f"{where}: metadata.{name} must map text to text (quote it?)", about=about
            )


def _kind(value: Any) -> str:
    names = {bool: "true or false", int: "a number", float: "a number", list: "a list", dict: "a mapping"}
    return names.get(type(value), "that")
