"""The state of the cluster that the CA needs, folded from the log: token issuers, pods, accounts, namespaces, roots.

`ClusterState` is the pure fold of a view of `MESH_EVENTS` (`services.ca.log.cluster_state_follower`). A new epoch of a
cluster replaces a broken log: the fold clears the state of that cluster, and requests wait until it is complete again.
"""

from __future__ import annotations

from collections.abc import Collection
from typing import Any, NamedTuple

import msgspec

from services.ca.core.root_certificates import WantedRoot, wanted_root
from shared.errors import MeshlogError
from shared.eventlog.fold import Epoch
from shared.eventlog.protocol import Record
from shared.identity.service_account_tokens import TokenVerifier, WorkloadToken
from shared.io.decoding import UndecodableError, decode
from shared.membership import is_member
from shared.meshconfig.certificate_spec import DEFAULT_KEY, GatewayCertificateSpec, read_certificates
from shared.names import MESH_CONFIG
from shared.projected_objects import ANNOTATION_SIDECAR, Namespace, Pod, PolicyObject, ServiceAccount, TokenIssuer
from shared.records.events import DELETED, Event, read
from shared.records.subjects import unescape

KINDS = ("TokenIssuer", "MeshConfig", "MeshRootCertificate", "Namespace", "ServiceAccount", "Pod")
_ENDED = {"Succeeded", "Failed"}


class ClusterNamespace(msgspec.Struct, frozen=True, gc=False):
    """Name of a namespace of one cluster."""

    cluster: str
    name: str


class ClusterObjectName(msgspec.Struct, frozen=True, gc=False):
    """Name of a namespaced object of one cluster; its kind is known from the context."""

    cluster: str
    namespace: str
    name: str


class Rejection(NamedTuple):
    """Why the bearer of a valid token gets no certificate now."""

    code: str
    sentence: str


class PodFact(msgspec.Struct, frozen=True):
    """An existing pod."""

    uid: str
    service_account: str
    ended: bool
    sidecar: bool = False
    """Whether it runs a sidecar: it has the injector's annotation and an address."""


class NamespaceFact(msgspec.Struct, frozen=True):
    """An existing namespace."""

    uid: str
    member: bool
    leaving: bool
    """Whether it is being deleted: the API server accepts no new object in it."""


class ClusterState:
    """The fold. One view mutates it."""

    def __init__(self, verifier: TokenVerifier, *, cluster: str, mesh_name: str, mesh_namespace: str) -> None:
        """The fold sets the issuers of all clusters in `verifier`, and reads the MeshConfig of `cluster` only."""
        self._verifier = verifier
        self._cluster = cluster
        self._mesh_name = mesh_name
        self._mesh_namespace = mesh_namespace
        self._mesh_config = ClusterObjectName(cluster, mesh_namespace, MESH_CONFIG)
        self._pods: dict[ClusterObjectName, PodFact] = {}
        self._accounts: dict[ClusterObjectName, str] = {}
        """Service account → uid."""
        self._namespaces: dict[ClusterNamespace, NamespaceFact] = {}
        self.lifetime: float | None = None
        """Lifetime of certificates in the MeshConfig, in seconds; `None` if it sets none."""
        self.longest_lifetime = 0.0
        """The longest lifetime that the MeshConfig had in the part of the log that was read, in seconds."""
        self.key_type = DEFAULT_KEY
        """Type of keys in the MeshConfig."""
        self.gateway: GatewayCertificateSpec | None = None
        """The certificate for an ingress gateway in the MeshConfig; `None` if it sets none."""
        self._roots: dict[str, WantedRoot] = {}

    def reset(self, epoch: Epoch) -> None:
        """Clear the state of the cluster whose events form this chain."""
        try:
            cluster = unescape(epoch.chain.split(".")[2])
        except MeshlogError:
            return  # no event of such a chain can be read, so the fold holds nothing of it
        self.clear(cluster)

    def fold(self, record: Record) -> bool:
        """Fold the record of an event. Raises `MeshlogError` as `apply` does, and if the record is no event."""
        event = read(record)
        self.apply(event)
        return event.operation != DELETED

    def apply(self, event: Event) -> None:
        """Fold one event. Raises `MeshlogError` if its object cannot be used; the last good one stays in force."""
        try:
            self._apply(event, None if event.operation == DELETED else event.object)
        except UndecodableError as error:
            raise MeshlogError("event/object", f"cannot be read ({error})", about=str(event.key)) from error

    def clear(self, cluster: str = "") -> None:
        """Clear the state of one cluster, or of all; the events of a new epoch restore it."""
        for known in self._verifier.clusters:
            if cluster in ("", known):
                self._verifier.set_issuer(known, None)
        self._pods = {name: pod for name, pod in self._pods.items() if cluster not in ("", name.cluster)}
        self._accounts = {name: uid for name, uid in self._accounts.items() if cluster not in ("", name.cluster)}
        self._namespaces = {name: one for name, one in self._namespaces.items() if cluster not in ("", name.cluster)}
        if cluster in ("", self._cluster):
            self.lifetime, self.key_type, self.gateway = None, DEFAULT_KEY, None
            self._roots.clear()

    @property
    def known(self) -> bool:
        """Whether the log contains events of our cluster. Its first events are one atomic batch."""
        return self._verifier.knows(self._cluster)

    @property
    def roots(self) -> list[WantedRoot]:
        """The MeshRootCertificates of our cluster, oldest first."""
        return sorted(self._roots.values(), key=lambda one: (one.created, one.name))

    def alive(self, cluster: str, namespace: str, pod: str, uid: str) -> bool:
        """Return whether this pod exists and runs."""
        fact = self._pods.get(ClusterObjectName(cluster, namespace, pod))
        return fact is not None and fact.uid == uid and not fact.ended

    def pods_of(self, namespace: str, accounts: Collection[str]) -> dict[str, str]:
        """Return the running pods of our cluster that use one of these accounts: uid → `namespace/name`."""
        return {
            pod.uid: f"{name.namespace}/{name.name}"
            for name, pod in self._pods.items()
            if (name.cluster, name.namespace) == (self._cluster, namespace)
            and pod.service_account in accounts
            and not pod.ended
        }

    def sidecars(self) -> dict[str, str]:
        """Return the running pods with a sidecar in member namespaces of all clusters: uid → `namespace/name`."""
        return {
            pod.uid: f"{name.namespace}/{name.name}"
            for name, pod in self._pods.items()
            if pod.sidecar
            and not pod.ended
            and (home := self._namespaces.get(ClusterNamespace(name.cluster, name.namespace))) is not None
            and self._belongs(name.namespace, home)
        }

    def members(self) -> dict[str, str]:
        """Return the namespaces of our cluster that get the trust bundle, with uids: members and the mesh's own."""
        return {
            key.name: namespace.uid
            for key, namespace in self._namespaces.items()
            if key.cluster == self._cluster and not namespace.leaving and self._belongs(key.name, namespace)
        }

    def rejection(self, token: WorkloadToken) -> Rejection | None:
        """Return the reason to reject the bearer of a valid token, or `None` to issue a certificate.

        Each reason may disappear when the log catches up with the cluster.
        """
        pod = self._pods.get(ClusterObjectName(token.cluster, token.namespace, token.pod_name))
        namespace = self._namespaces.get(ClusterNamespace(token.cluster, token.namespace))
        account = self._accounts.get(ClusterObjectName(token.cluster, token.namespace, token.service_account))
        if pod is None or pod.uid != token.pod_uid:
            return Rejection("token/unknown-pod", "the pod of the token is not in the log: not yet, or not any more")
        if pod.ended or pod.service_account != token.service_account:
            return Rejection("token/unknown-pod", "the pod of the token has ended, or runs as another account")
        if namespace is None or not self._belongs(token.namespace, namespace):
            return Rejection("token/not-a-member", "the namespace of the token is no member of the mesh")
        if account is not None and account != token.service_account_uid:
            return Rejection("token/unknown-account", "the service account of the token was deleted")
        return None

    def _belongs(self, name: str, namespace: NamespaceFact) -> bool:
        return name == self._mesh_namespace or namespace.member

    def _apply(self, event: Event, raw: msgspec.Raw | None) -> None:
        name = ClusterObjectName(event.cluster, event.namespace, event.name)
        match event.kind:
            case "Pod":
                self._apply_pod(name, raw)
            case "ServiceAccount":
                # A deleted account has an empty uid, which equals no token's: its valid tokens must get no certificate.
                self._accounts[name] = decode(ServiceAccount, raw).metadata.uid if raw else ""
            case "Namespace":
                self._apply_namespace(event, raw)
            case "TokenIssuer":
                self._verifier.set_issuer(event.cluster, decode(TokenIssuer, raw) if raw else None)
            case "MeshConfig" if name == self._mesh_config:
                spec = decode(PolicyObject, raw).spec if raw else {}
                self._apply_config(spec, event)
            case "MeshRootCertificate" if (name.cluster, name.namespace) == (self._cluster, self._mesh_namespace):
                self._apply_root(event, raw)
            case _:
                pass

    def _apply_config(self, spec: dict[str, Any], event: Event) -> None:
        found = read_certificates(spec, about=str(event.key))
        self.lifetime, self.key_type, self.gateway = found.lifetime, found.key_type, found.gateway
        self.longest_lifetime = max(self.longest_lifetime, found.lifetime or 0.0)

    def _apply_root(self, event: Event, raw: msgspec.Raw | None) -> None:
        if raw is None:
            self._roots.pop(event.name, None)
        else:
            self._roots[event.name] = wanted_root(decode(PolicyObject, raw), event)

    def _apply_pod(self, name: ClusterObjectName, raw: msgspec.Raw | None) -> None:
        if raw is None:
            self._pods.pop(name, None)
            return
        pod = decode(Pod, raw)
        self._pods[name] = PodFact(
            uid=pod.metadata.uid,
            service_account=pod.spec.service_account_name,
            ended=pod.status.phase in _ENDED,
            sidecar=ANNOTATION_SIDECAR in pod.metadata.annotations and bool(pod.status.pod_ip),
        )

    def _apply_namespace(self, event: Event, raw: msgspec.Raw | None) -> None:
        name = ClusterNamespace(event.cluster, event.name)
        if raw is None:
            self._namespaces.pop(name, None)
            return
        metadata = decode(Namespace, raw).metadata
        self._namespaces[name] = NamespaceFact(
            uid=metadata.uid,
            member=is_member(metadata.labels, mesh_name=self._mesh_name),
            leaving=bool(metadata.deletion_timestamp),
        )
