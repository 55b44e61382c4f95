"""What the compiler publishes and edges serve: resources, views of workload classes, and the proxies in each.

A *resource* is one xDS resource in its final bytes, known by (type, name, hash): two classes may hold different
bytes under one name. A *view* holds the resource of one workload class under each name. A *commit* is
the difference between two versions; folded with `Snapshot.apply` from a keyframe (a commit with parent 0) it gives
the whole snapshot. MessagePack, because the bodies are bytes.
"""

from __future__ import annotations

import contextlib
import hashlib

import msgspec

from shared.errors import MeshlogError
from shared.io.decoding import UndecodableError, decode_by
from shared.records.events import ObjectKey

FORMAT = 1

CDS = "type.googleapis.com/envoy.config.cluster.v3.Cluster"
EDS = "type.googleapis.com/envoy.config.endpoint.v3.ClusterLoadAssignment"
LDS = "type.googleapis.com/envoy.config.listener.v3.Listener"
RDS = "type.googleapis.com/envoy.config.route.v3.RouteConfiguration"
SDS = "type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.Secret"
TYPE_URLS = (CDS, EDS, LDS, RDS)
"""The types that a compiler renders, in the order in which additions are sent. Secrets (SDS) are the edge's own."""

SECRET_WORKLOAD = "workload"  # noqa: S105 (a resource name)
"""SDS name of the proxy's own certificate and key, in every proxy's configuration."""
SECRET_TRUST_BUNDLE = "trust-bundle"  # noqa: S105 (a resource name)
"""SDS name of the roots that a proxy trusts (a validation context with `trusted_ca`)."""


class SnapshotError(MeshlogError):
    """A commit cannot be read or does not follow the snapshot that it is applied to."""


class FutureSnapshotError(SnapshotError):
    """The commit is of a newer build's format: nothing of it is guessed."""

    def __init__(self, version: int, written: int) -> None:
        """`version` of the commit, `written`: its format."""
        self.what = f"version {version} has format {written}, this build reads up to {FORMAT}"
        super().__init__("snapshot/future", f"{self.what}; run a newer build")


class Cause(msgspec.Struct, frozen=True, array_like=True, order=True):
    """One event that a resource or a commit depends on."""

    key: ObjectKey
    uid: str
    resource_version: str
    sequence: int
    """Sequence in `MESH_EVENTS`."""


ResourceId = tuple[str, str, str]
"""Type URL, name and hash of a resource. A plain tuple: each fold makes one for every resource that it names."""


class Resource(msgspec.Struct, frozen=True, array_like=True):
    """One xDS resource in its final bytes."""

    type_url: str
    name: str
    hash: str
    """`resource_hash` of the body: also its xDS version, so a reconnect resends nothing that is held."""
    body: bytes
    """The serialised message, as it goes into `Any.value`."""
    recorded: msgspec.Raw = msgspec.Raw(b"\x90")
    """`causes` as they stand in the commit: two thirds of a large snapshot, which most readers never look at."""

    @property
    def causes(self) -> list[Cause]:
        """What the bytes depend on, sorted; raises `SnapshotError` if that cannot be read."""
        try:
            return decode_by(_CAUSES, self.recorded)
        except UndecodableError as error:
            raise SnapshotError("snapshot/corrupt", f"the causes of {self.name} cannot be read ({error})") from error


class ViewChange(msgspec.Struct, frozen=True, array_like=True):
    """How the view of one class differs from the parent version's."""

    put: dict[str, dict[str, str]]
    """Type URL → resource name → hash."""
    dropped: dict[str, list[str]] = {}
    """Type URL → names, sorted."""

    def fold_into(self, view: dict[str, dict[str, str]]) -> None:
        """Make the parent's view, type URL → name → hash, this version's."""
        for type_url, names in self.dropped.items():
            held = view.get(type_url, {})
            for name in names:
                held.pop(name, None)
            if not held:
                view.pop(type_url, None)
        for type_url, names in self.put.items():
            view.setdefault(type_url, {}).update(names)


class Proxy(msgspec.Struct, frozen=True, array_like=True):
    """One pod with a sidecar, and the class whose view it is served."""

    cluster: str
    namespace: str
    pod: str
    uid: str
    """Of the pod: a stream is served only while the token's pod uid is this one."""
    service_account: str
    workload_class: str
    addresses: tuple[str, ...] | None = None
    """Addresses of the pod, so that an edge can check where a token is used; empty: it has none yet. None: its streams
    may come from anywhere (it uses its node's network, or an older build wrote this)."""

    @property
    def key(self) -> str:
        """`cluster/namespace/pod`."""
        return proxy_key(self.cluster, self.namespace, self.pod)


def proxy_key(cluster: str, namespace: str, pod: str) -> str:
    """How commits and edges name a proxy."""
    return f"{cluster}/{namespace}/{pod}"


class Quarantined(msgspec.Struct, frozen=True, array_like=True, order=True):
    """An object, or a part of it, that is left out, and why."""

    key: ObjectKey
    code: str
    sentence: str


class Commit(msgspec.Struct, frozen=True):
    """The difference between a version and its parent; a keyframe when the parent is 0."""

    format: int
    version: int
    """Sequence of the last event in it."""
    parent: int
    epoch: str
    """Epoch of the events."""
    build: str
    """Which compiler made it."""
    resources: list[Resource] = []
    """Bodies that the parent does not have."""
    retired: list[ResourceId] = []
    """(type, name, hash) of bodies that no view names any more."""
    views: dict[str, ViewChange | None] = {}
    """Changed views by class; none: the class is gone."""
    proxies: dict[str, Proxy | None] = {}
    """Changed proxies by `Proxy.key`; none: the proxy is gone."""
    quarantine: list[Quarantined] | None = None
    """The whole list when it changed, else none."""
    causes: list[Cause] = []
    """The events between parent and version."""
    traceparents: list[str] = []
    """Trace contexts of those events, so that the ACK joins the trace of the change."""
    trust_domain: str = "cluster.local"
    mesh_namespaces: list[str] | None = None
    """Namespaces that are members, sorted, when that changed."""


class Snapshot:
    """A whole version, folded from commits. Mutable: one owner folds; to keep a past version, copy it."""

    def __init__(self) -> None:
        self.version = 0
        self.epoch = ""
        self.build = ""
        self.trust_domain = "cluster.local"
        self.resources: dict[ResourceId, Resource] = {}
        """(type, name, hash) → resource."""
        self.views: dict[str, dict[str, dict[str, str]]] = {}
        """Class → type URL → name → hash."""
        self.proxies: dict[str, Proxy] = {}
        self.quarantine: list[Quarantined] = []
        self.mesh_namespaces: list[str] = []

    def apply(self, commit: Commit) -> None:
        """Fold one commit in, or replace everything by a keyframe.

        Raises `SnapshotError` if it is of a newer format, does not follow this version, or names a body that is
        not there; the snapshot is then unchanged only if the check failed before folding (format, parent): a
        caller that sees the error must start again from a keyframe.
        """
        refuse_future(commit)
        if commit.parent == 0:
            self._clear()
        elif commit.parent != self.version:
            raise SnapshotError(
                "snapshot/gap",
                f"version {commit.version} follows {commit.parent}, but {self.version} is held",
            )
        for resource in commit.resources:
            self.resources[resource.type_url, resource.name, resource.hash] = resource
        for workload_class, change in commit.views.items():
            self._apply_view(workload_class, change)
        self._apply_proxies(commit.proxies)
        for identity in commit.retired:
            self.resources.pop(identity, None)
        if commit.quarantine is not None:
            self.quarantine = commit.quarantine
        if commit.mesh_namespaces is not None:
            self.mesh_namespaces = commit.mesh_namespaces
        self.version, self.epoch, self.build = commit.version, commit.epoch, commit.build
        self.trust_domain = commit.trust_domain

    def _clear(self) -> None:
        """Be as new: nothing is held. Readers of the old dictionaries keep them as they are."""
        self.version, self.epoch, self.build, self.trust_domain = 0, "", "", "cluster.local"
        self.resources, self.views, self.proxies = {}, {}, {}
        self.quarantine, self.mesh_namespaces = [], []

    def _apply_proxies(self, proxies: dict[str, Proxy | None]) -> None:
        for key, proxy in proxies.items():
            if proxy is None:
                self.proxies.pop(key, None)
            else:
                self.proxies[key] = proxy

    def _apply_view(self, workload_class: str, change: ViewChange | None) -> None:
        if change is None:
            self.views.pop(workload_class, None)
            return
        change.fold_into(self.views.setdefault(workload_class, {}))
        for type_url, names in change.put.items():
            for name, digest in names.items():
                if (type_url, name, digest) not in self.resources:
                    raise SnapshotError("snapshot/body", f"class {workload_class} names {name}@{digest}: no body")

    def keyframe(self) -> Commit:
        """The whole snapshot as one commit with parent 0."""
        return Commit(
            format=FORMAT,
            version=self.version,
            parent=0,
            epoch=self.epoch,
            build=self.build,
            resources=[self.resources[key] for key in sorted(self.resources)],
            views={name: ViewChange(put=self.views[name]) for name in sorted(self.views)},
            proxies={key: self.proxies[key] for key in sorted(self.proxies)},
            quarantine=self.quarantine,
            trust_domain=self.trust_domain,
            mesh_namespaces=self.mesh_namespaces,
        )

    def concerned(self, commit: Commit) -> list[str]:
        """Keys of the proxies whose configuration `commit` (the newest applied) may have changed, sorted."""
        return sorted(
            key for key, proxy in self.proxies.items() if proxy.workload_class in commit.views or key in commit.proxies
        )


def resource_hash(type_url: str, body: bytes) -> str:
    """Version of a resource: the first 16 hex digits of SHA-256(type URL, body)."""
    return hashlib.sha256(type_url.encode() + b"\n" + body).hexdigest()[:16]


_ENCODER = msgspec.msgpack.Encoder(order="deterministic")
_DECODER = msgspec.msgpack.Decoder(Commit)
_CAUSES = msgspec.msgpack.Decoder(list[Cause])


def record_causes(causes: list[Cause]) -> msgspec.Raw:
    """What a resource depends on, as a commit holds it."""
    return msgspec.Raw(_ENCODER.encode(causes))


def encode_commit(commit: Commit) -> bytes:
    """The bytes of a commit: equal commits give equal bytes."""
    return _ENCODER.encode(commit)


class CommitHead(msgspec.Struct):
    """What commits of every format have, also of those to come; maps and fields that are unknown are passed over."""

    format: int
    version: int


_HEAD = msgspec.msgpack.Decoder(CommitHead)


def refuse_future(head: CommitHead | Commit) -> None:
    """Raise `FutureSnapshotError` for a format that is newer than ours."""
    if head.format > FORMAT:
        raise FutureSnapshotError(head.version, head.format)


def refuse_future_bytes(payload: bytes) -> None:
    """The same for bytes that cannot be read as a commit; does nothing if they are none of any format."""
    with contextlib.suppress(UndecodableError):
        refuse_future(decode_by(_HEAD, payload))


def decode_commit(payload: bytes) -> Commit:
    """Read a commit; raises `SnapshotError` for bytes that are none, `FutureSnapshotError` for a newer format.

    Within a format fields are only added, with defaults: older commits lack them, and older builds pass over them.
    """
    try:
        commit = decode_by(_DECODER, payload)
    except UndecodableError as error:
        refuse_future_bytes(payload)
        raise SnapshotError("snapshot/corrupt", f"cannot be read as a commit ({error})") from error
    refuse_future(commit)
    return commit
