"""Persists selected objects in files of the state directory, and restores them at the next start.

All other objects are in memory only, while the log stays on disk. Objects that cannot be derived from the log (the
Secret with the CA's keys, and the requested MeshRootCertificates) must survive, as they do in etcd. There is one file
per object, with mode 0600, written atomically.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import msgspec

from deploy.devcluster.cluster_api import KubeApiError, Obj
from deploy.devcluster.manifest_applier import ManifestApplier
from deploy.devcluster.settings import KeptObjects
from shared.errors import BadInputError
from shared.io.atomic_file import sync_folder, write_atomically
from shared.io.decoding import UndecodableError, decode_any

_log = logging.getLogger(__name__)
_MANAGER = "meshlog"


class ObjectPersistence:
    """Restores objects (`restore`), then writes every change to files (`run`, one task for each of `kept`)."""

    def __init__(self, cluster: ManifestApplier, directory: Path, kept: Sequence[KeptObjects]) -> None:
        self._cluster = cluster
        self._directory = directory
        self.kept = tuple(kept)

    async def restore(self) -> int:
        """Apply the persisted objects. Returns their number. Raises `BadInputError` for a damaged file."""
        found: list[tuple[Path, Obj]] = []
        for one in self.kept:
            held = sorted(self._place(one).glob("*.json"))
            found += [(path, _read(path)) for path in held if one.name in ("", path.stem)]
        # Oldest first: requests of users are ordered by creation time.
        for path, obj in sorted(found, key=lambda each: each[1]["metadata"].get("creationTimestamp", "")):
            try:
                await self._cluster.transact([_bare(obj)], manager=_MANAGER)
            except KubeApiError as error:
                raise BadInputError(
                    "devcluster/kept", f"cannot be put back: {error.sentence}", about=str(path)
                ) from error
        return len(found)

    async def run(self, one: KeptObjects) -> None:
        """Write the current objects and each change to files, for ever."""
        while True:
            found, revision = await self._cluster.list(one.resource, one.namespace)
            held = {obj["metadata"]["name"]: obj for obj in found if one.name in ("", obj["metadata"]["name"])}
            for path in self._place(one).glob("*.json"):
                if one.name in ("", path.stem) and path.stem not in held:
                    await asyncio.to_thread(self._keep, path, None)
            for name, obj in held.items():
                await asyncio.to_thread(self._keep, self._file(one, name), obj)
            try:
                async for event in self._cluster.watch(one.resource, one.namespace, since=revision):
                    name: str = event.object["metadata"]["name"]
                    if one.name in ("", name):
                        obj = None if event.type == "DELETED" else event.object
                        await asyncio.to_thread(self._keep, self._file(one, name), obj)
            except KubeApiError as error:
                _log.warning("%s are looked at anew: %s", one.resource, error)

    def _keep(self, path: Path, obj: Obj | None) -> None:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        if obj is None:
            path.unlink(missing_ok=True)
            sync_folder(path.parent)
        else:
            write_atomically(path, msgspec.json.encode(obj))

    def _place(self, one: KeptObjects) -> Path:
        return self._directory / one.resource / one.namespace

    def _file(self, one: KeptObjects, name: str) -> Path:
        return self._place(one) / f"{name}.json"


def _read(path: Path) -> Obj:
    try:
        obj: Any = decode_any(path.read_bytes())
    except (OSError, UndecodableError) as error:
        # Without its content, which may be a key.
        raise BadInputError(
            "devcluster/kept", f"cannot be read ({type(error).__name__}); restore it or remove it", about=str(path)
        ) from error
    if not isinstance(obj, dict) or not isinstance(obj.get("metadata"), dict):
        raise BadInputError("devcluster/kept", "is no Kubernetes object; restore it or remove it", about=str(path))
    return obj


def _bare(obj: Obj) -> Obj:
    """The object without fields that an API server adds."""
    metadata = {key: value for key, value in obj["metadata"].items() if key in _OURS}
    return {**{key: value for key, value in obj.items() if key != "status"}, "metadata": metadata}


_OURS = ("name", "namespace", "labels", "annotations")
