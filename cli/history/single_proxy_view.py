"""Rebuilds the configuration of one proxy at a version without decoding that of the others.

Most of a keyframe is bodies and causes of resources that one proxy does not hold. They are skipped as raw bytes: only
the proxy, the view of its class and the resources in it are decoded.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TypeVar

import msgspec

from shared.io.decoding import UndecodableError, decode_by
from shared.records.snapshot import (
    FORMAT,
    Commit,
    FutureSnapshotError,
    Proxy,
    Resource,
    Snapshot,
    SnapshotError,
    ViewChange,
    refuse_future_bytes,
)

T = TypeVar("T")


class ResourceOutline(msgspec.Struct, frozen=True, array_like=True):
    """A resource whose body is not decoded yet."""

    type_url: str
    name: str
    hash: str
    body: msgspec.Raw
    recorded: msgspec.Raw = msgspec.Raw(b"\x90")


class CommitOutline(msgspec.Struct, frozen=True):
    """The fields of a commit that are needed to find one proxy in it."""

    format: int
    version: int
    parent: int
    epoch: str
    build: str
    resources: list[ResourceOutline] = []
    views: dict[str, msgspec.Raw] = {}
    proxies: dict[str, msgspec.Raw] = {}
    trust_domain: str = "cluster.local"


_OUTLINE = msgspec.msgpack.Decoder(CommitOutline)
_VIEW = msgspec.msgpack.Decoder(ViewChange | None)
_PROXY = msgspec.msgpack.Decoder(Proxy | None)
_RESOURCE = msgspec.msgpack.Decoder(Resource)
_ENCODER = msgspec.msgpack.Encoder()


def read_outline(payload: bytes) -> CommitOutline:
    """Decode the outline of a commit. Raises `SnapshotError` if the bytes are no commit."""
    try:
        outline = _decoded(_OUTLINE, payload)
    except SnapshotError:
        refuse_future_bytes(payload)
        raise
    if outline.format > FORMAT:
        raise FutureSnapshotError(outline.version, outline.format)
    return outline


def single_proxy_snapshot(outlines: Sequence[CommitOutline], proxy: str) -> Snapshot:
    """Return a snapshot of that proxy alone and the resources that it holds; empty if there is no such proxy.

    The outlines are those of consecutive commits, the first of them a keyframe. Raises `SnapshotError`.
    """
    last = outlines[-1]
    found = Snapshot()
    commit = Commit(
        format=last.format, version=last.version, parent=0, epoch=last.epoch, build=last.build,
        trust_domain=last.trust_domain,
    )  # fmt: skip
    entry = next((_decoded(_PROXY, one.proxies[proxy]) for one in reversed(outlines) if proxy in one.proxies), None)
    if entry is None:
        found.apply(commit)
        return found
    view = _view(outline.views[entry.workload_class] for outline in outlines if entry.workload_class in outline.views)
    held = {(type_url, name, digest) for type_url, names in view.items() for name, digest in names.items()}
    bodies = {
        (one.type_url, one.name, one.hash): _decoded(_RESOURCE, _ENCODER.encode(one))
        for outline in outlines
        for one in outline.resources
        if (one.type_url, one.name, one.hash) in held
    }
    found.apply(
        msgspec.structs.replace(
            commit,
            resources=list(bodies.values()),
            views={entry.workload_class: ViewChange(put=view)},
            proxies={proxy: entry},
        )
    )
    return found


def _view(changes: Iterable[msgspec.Raw]) -> dict[str, dict[str, str]]:
    """Return the view of a class after these changes of it."""
    view: dict[str, dict[str, str]] = {}
    for raw in changes:
        change = _decoded(_VIEW, raw)
        if change is None:
            view = {}
        else:
            change.fold_into(view)
    return view


def _decoded(decoder: msgspec.msgpack.Decoder[T], raw: bytes | msgspec.Raw) -> T:
    try:
        return decode_by(decoder, raw)
    except UndecodableError as error:
        raise SnapshotError("snapshot/corrupt", f"cannot be read as a commit ({error})") from error
