"""The state of the cluster that the CA needs, folded from the log: token issuers, pods, accounts, namespaces, roots.

`ClusterState` is the pure fold of a view of `MESH_EVENTS` (`services.ca.log.cluster_state_follower`). A new epoch of a
cluster replaces a broken log: the fold clears the state of that cluster, and requests wait until it is complete again.
"""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

import msgspec

from services.ca.core.root_certificates import WantedRoot, wanted_root
from shared.errors import MeshlogError
from shared.eventlog.fold import Epoch
from shared.eventlog.protocol import Record
from shared.identity.service_account_tokens import TokenVerifier, WorkloadToken
from shared.io.decoding import UndecodableError, decode
from shared.membership import is_member
from shared.meshconfig.certificates import DEFAULT_KEY, GatewayWish, read_certificates
from shared.model import (
    ANNOTATION_SIDECAR,
    Namespace,
    Pod,
    PolicyObject,
    ServiceAccount,
    TokenIssuer,
)
from shared.names import MESH_CONFIG
from shared.records.events import DELETED, Event, read
from shared.records.subjects import unescape

KINDS = ("TokenIssuer", "MeshConfig", "MeshRootCertificate", "Namespace", "ServiceAccount", "Pod")
_ENDED = {"Succeeded", "Failed"}


class PodFact(msgspec.Struct, frozen=True):
    """A pod that is there."""

    uid: str
    service_account: str
    ended: bool
    sidecar: bool = False
    """Whether it runs with a proxy of ours: the injector's mark, and an address."""


class NamespaceFact(msgspec.Struct, frozen=True):
    """A namespace that is there."""

    uid: str
    member: bool
    leaving: bool
    """Being deleted: nothing can be written into it any more."""


class ClusterState:
    """The fold. Mutable: one view feeds it."""

    def __init__(self, verifier: TokenVerifier, *, cluster: str, mesh_name: str, mesh_namespace: str) -> None:
        """`verifier` is kept current with the issuers of all clusters; the MeshConfig is that of `cluster`."""
        self._verifier = verifier
        self._cluster = cluster
        self._mesh_name = mesh_name
        self._mesh_namespace = mesh_namespace
        self._pods: dict[tuple[str, str, str], PodFact] = {}
        self._accounts: dict[tuple[str, str, str], str] = {}
        self._namespaces: dict[tuple[str, str], NamespaceFact] = {}
        self.lifetime: float | None = None
        """Seconds that MeshConfig wants certificates to live; none: it says nothing."""
        self.longest_lifetime = 0.0
        """The longest that MeshConfig ever wanted, as far as the log was read; seconds."""
        self.key_type = DEFAULT_KEY
        """What keys MeshConfig wants."""
        self.gateway: GatewayWish | None = None
        """The certificate that MeshConfig wants for an ingress gateway."""
        self._roots: dict[str, WantedRoot] = {}

    def reset(self, epoch: Epoch) -> None:
        """Forget everything of the cluster whose events are this chain."""
        try:
            cluster = unescape(epoch.chain.split(".")[2])
        except MeshlogError:
            return  # no event of such a chain can be read: nothing is known of it
        self.clear(cluster)

    def fold(self, record: Record) -> bool:
        """Take a record of an event. Raises `MeshlogError` as `apply` does, and if the record is no event."""
        event = read(record)
        self.apply(event)
        return event.operation != DELETED

    def apply(self, event: Event) -> None:
        """Fold one event in. Raises `MeshlogError` if its object cannot be used: the last good one stays in force."""
        try:
            self._apply(event, None if event.operation == DELETED else event.object)
        except UndecodableError as error:
            raise MeshlogError("event/object", f"cannot be read ({error})", about=str(event.key)) from error

    def clear(self, cluster: str = "") -> None:
        """Forget everything (of one cluster): a new epoch tells it again."""
        for known in self._verifier.clusters:
            if cluster in ("", known):
                self._verifier.set_issuer(known, None)
        self._pods = {place: fact for place, fact in self._pods.items() if cluster not in ("", place[0])}
        self._accounts = {place: uid for place, uid in self._accounts.items() if cluster not in ("", place[0])}
        self._namespaces = {place: fact for place, fact in self._namespaces.items() if cluster not in ("", place[0])}
        if cluster in ("", self._cluster):
            self.lifetime, self.key_type, self.gateway = None, DEFAULT_KEY, None
            self._roots.clear()

    @property
    def told(self) -> bool:
        """Whether the log tells of our cluster at all: the first events come as one batch."""
        return self._verifier.knows(self._cluster)

    @property
    def roots(self) -> list[WantedRoot]:
        """The MeshRootCertificates of our cluster, oldest first."""
        return sorted(self._roots.values(), key=lambda one: (one.created, one.name))

    def alive(self, cluster: str, namespace: str, pod: str, uid: str) -> bool:
        """Whether a pod is there and runs."""
        fact = self._pods.get((cluster, namespace, pod))
        return fact is not None and fact.uid == uid and not fact.ended

    def pods_of(self, namespace: str, accounts: Collection[str]) -> dict[str, str]:
        """Running pods of our cluster that run as one of these accounts: uid → `namespace/name`."""
        return {
            fact.uid: f"{place[1]}/{place[2]}"
            for place, fact in self._pods.items()
            if place[:2] == (self._cluster, namespace) and fact.service_account in accounts and not fact.ended
        }

    def sidecars(self) -> dict[str, str]:
        """Running pods with a proxy, of all clusters' member namespaces: uid → `namespace/name`."""
        return {
            fact.uid: f"{namespace}/{name}"
            for (cluster, namespace, name), fact in self._pods.items()
            if fact.sidecar
            and not fact.ended
            and (home := self._namespaces.get((cluster, namespace))) is not None
            and self._belongs(namespace, home)
        }

    def members(self) -> dict[str, str]:
        """Namespaces of our cluster that the trust bundle belongs into → uid: members and the mesh's own."""
        return {
            name: fact.uid
            for (cluster, name), fact in self._namespaces.items()
            if cluster == self._cluster and not fact.leaving and self._belongs(name, fact)
        }

    def objection(self, token: WorkloadToken) -> tuple[str, str] | None:
        """Why the bearer of a verified token gets no certificate now: (code, sentence); none: it gets one.

        Each reason may pass when the log catches up with the cluster.
        """
        key = (token.cluster, token.namespace, token.pod_name)
        pod = self._pods.get(key)
        namespace = self._namespaces.get((token.cluster, token.namespace))
        account = self._accounts.get((token.cluster, token.namespace, token.service_account))
        if pod is None or pod.uid != token.pod_uid:
            return "token/unknown-pod", "the pod of the token is not in the log: not yet, or not any more"
        if pod.ended or pod.service_account != token.service_account:
            return "token/unknown-pod", "the pod of the token has ended, or runs as another account"
        if namespace is None or not self._belongs(token.namespace, namespace):
            return "token/not-a-member", "the namespace of the token is no member of the mesh"
        if account is not None and account != token.service_account_uid:
            return "token/unknown-account", "the service account of the token was deleted"
        return None

    def _belongs(self, name: str, fact: NamespaceFact) -> bool:
        return name == self._mesh_namespace or fact.member

    def _apply(self, event: Event, raw: msgspec.Raw | None) -> None:
        place = (event.cluster, event.namespace, event.name)
        match event.kind:
            case "Pod":
                self._apply_pod(place, raw)
            case "ServiceAccount":
                # A deleted account keeps an entry that no uid equals: its tokens live on, its certificates must not.
                self._accounts[place] = decode(ServiceAccount, raw).metadata.uid if raw else ""
            case "Namespace":
                self._apply_namespace(event, raw)
            case "TokenIssuer":
                self._verifier.set_issuer(event.cluster, decode(TokenIssuer, raw) if raw else None)
            case "MeshConfig" if place == (self._cluster, self._mesh_namespace, MESH_CONFIG):
                spec = decode(PolicyObject, raw).spec if raw else {}
                self._apply_config(spec, event)
            case "MeshRootCertificate" if place[:2] == (self._cluster, self._mesh_namespace):
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

    def _apply_pod(self, place: tuple[str, str, str], raw: msgspec.Raw | None) -> None:
        if raw is None:
            self._pods.pop(place, None)
            return
        pod = decode(Pod, raw)
        self._pods[place] = PodFact(
            uid=pod.metadata.uid,
            service_account=pod.spec.service_account_name,
            ended=pod.status.phase in _ENDED,
            sidecar=ANNOTATION_SIDECAR in pod.metadata.annotations and bool(pod.status.pod_ip),
        )

    def _apply_namespace(self, event: Event, raw: msgspec.Raw | None) -> None:
        if raw is None:
            self._namespaces.pop((event.cluster, event.name), None)
            return
        metadata = decode(Namespace, raw).metadata
        self._namespaces[event.cluster, event.name] = NamespaceFact(
            uid=metadata.uid,
            member=is_member(metadata.labels, mesh_name=self._mesh_name),
            leaving=bool(metadata.deletion_timestamp),
        )
