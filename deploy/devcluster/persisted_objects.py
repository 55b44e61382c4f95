"""Objects that outlive the devcluster: kept in files of the state directory, there again at the next start.

Everything else in the API lives in memory and ends with it, while the log stays on the disk. What nobody could write
again from the log (the Secret with the CA's keys, and which roots people wished for) needs a second home, which in a
real cluster is etcd. One file an object, for its owner only, written whole or not at all.
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
    """Reads them back (`restore`), then writes every change down (`run`, one task for each of `kept`)."""

    def __init__(self, cluster: ManifestApplier, directory: Path, kept: Sequence[KeptObjects]) -> None:
        self._cluster = cluster
        self._directory = directory
        self.kept = tuple(kept)

    async def restore(self) -> int:
        """Apply what was kept, and say how many objects that was. Raises `BadInputError` for a file that is damaged."""
        found: list[tuple[Path, Obj]] = []
        for one in self.kept:
            held = sorted(self._place(one).glob("*.json"))
            found += [(path, _read(path)) for path in held if one.name in ("", path.stem)]
        # Oldest first: people's wishes are ordered by the time at which they were made.
        for path, obj in sorted(found, key=lambda each: each[1]["metadata"].get("creationTimestamp", "")):
            try:
                await self._cluster.transact([_bare(obj)], manager=_MANAGER)
            except KubeApiError as error:
                raise BadInputError(
                    "devcluster/kept", f"cannot be put back: {error.sentence}", about=str(path)
                ) from error
        return len(found)

    async def run(self, one: KeptObjects) -> None:
        """Write down what there is and each change, for ever."""
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
        # Never its content: it may be a key.
        raise BadInputError(
            "devcluster/kept", f"cannot be read ({type(error).__name__}); restore it or remove it", about=str(path)
        ) from error
    if not isinstance(obj, dict) or not isinstance(obj.get("metadata"), dict):
        raise BadInputError("devcluster/kept", "is no Kubernetes object; restore it or remove it", about=str(path))
    return obj


def _bare(obj: Obj) -> Obj:
    """The object as somebody would write it: without what an API server adds."""
    metadata = {key: value for key, value in obj["metadata"].items() if key in _OURS}
    return {**{key: value for key, value in obj.items() if key != "status"}, "metadata": metadata}


_OURS = ("name", "namespace", "labels", "annotations")
