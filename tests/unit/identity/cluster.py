"""A Kubernetes cluster as far as identity goes: it signs tokens, and tells the log of issuer, namespaces and pods."""

from __future__ import annotations

import json
import time
from typing import Any

import jwt
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from jwt.algorithms import ECAlgorithm, RSAAlgorithm

from shared.eventlog.protocol import Draft, EventLog
from shared.projected_objects import (
    LABEL_MONITORED_BY,
    Meta,
    Namespace,
    Pod,
    PodSpec,
    PodStatus,
    PolicyObject,
    ServiceAccount,
    TokenIssuer,
)
from shared.records.events import APPLIED, DELETED, SCHEMA, Event, encode, encode_object
from shared.records.subjects import Streams

ISSUER = "https://kubernetes.default.svc.cluster.local"


class Cluster:
    """One cluster with one signing key; `name` is its name in the log."""

    def __init__(self, name: str = "devcluster", *, algorithm: str = "ES256", now: float | None = None) -> None:
        self.name = name
        self.algorithm = algorithm
        self.now = time.time() if now is None else now
        self.key: Any = (
            rsa.generate_private_key(65537, 2048) if algorithm == "RS256" else ec.generate_private_key(ec.SECP256R1())
        )
        self.kid = "key-1"

    @property
    def jwk(self) -> dict[str, Any]:
        algorithm = RSAAlgorithm if self.algorithm == "RS256" else ECAlgorithm
        key: dict[str, Any] = json.loads(algorithm.to_jwk(self.key.public_key()))
        return {**key, "kid": self.kid, "use": "sig", "alg": self.algorithm}

    @property
    def issuer(self) -> TokenIssuer:
        return TokenIssuer(issuer=ISSUER, jwks={"keys": [self.jwk]})

    def claims(
        self, namespace: str = "bookstore", account: str = "bookbuyer", pod: str = "bookbuyer-1"
    ) -> dict[str, Any]:
        """What the API server puts into a projected token of a pod."""
        return {
            "iss": ISSUER,
            "aud": ["meshlog"],
            "sub": f"system:serviceaccount:{namespace}:{account}",
            "iat": int(self.now) - 5,
            "nbf": int(self.now) - 5,
            "exp": int(self.now) + 3600,
            "jti": f"jti-{pod}",
            "kubernetes.io": {
                "namespace": namespace,
                "pod": {"name": pod, "uid": f"uid-{pod}"},
                "serviceaccount": {"name": account, "uid": f"uid-{account}"},
                "node": {"name": "node-1", "uid": "uid-node-1"},
            },
        }

    def sign(self, claims: dict[str, Any], *, key: Any = None, algorithm: str = "", **headers: Any) -> str:
        return jwt.PyJWS().encode(
            json.dumps(claims).encode(),
            key or self.key,
            algorithm=algorithm or self.algorithm,
            headers={"kid": self.kid, **headers},
        )

    def token(self, namespace: str = "bookstore", account: str = "bookbuyer", pod: str = "bookbuyer-1") -> str:
        return self.sign(self.claims(namespace, account, pod))

    def event(self, kind: str, namespace: str, name: str, projected: Any, *, uid: str = "") -> Event:
        return Event(
            schema=SCHEMA,
            cluster=self.name,
            kind=kind,
            namespace=namespace,
            name=name,
            uid=uid or f"uid-{name}",
            resource_version="1",
            operation=DELETED if projected is None else APPLIED,
            object=None if projected is None else encode_object(projected),
        )

    def issuer_event(self) -> Event:
        return self.event("TokenIssuer", "", "cluster", self.issuer)

    def namespace_event(self, name: str, *, monitored_by: str = "meshlog", leaving: bool = False) -> Event:
        labels = {LABEL_MONITORED_BY: monitored_by} if monitored_by else {}
        meta = Meta(name=name, uid=f"uid-{name}", labels=labels, deletion_timestamp="now" if leaving else "")
        return self.event("Namespace", "", name, Namespace(metadata=meta))

    def account_event(self, namespace: str, name: str, *, uid: str = "") -> Event:
        meta = Meta(name=name, namespace=namespace, uid=uid or f"uid-{name}")
        return self.event("ServiceAccount", namespace, name, ServiceAccount(metadata=meta))

    def pod_event(self, namespace: str, name: str, account: str, *, phase: str = "Running", uid: str = "") -> Event:
        meta = Meta(name=name, namespace=namespace, uid=uid or f"uid-{name}")
        pod = Pod(metadata=meta, spec=PodSpec(service_account_name=account), status=PodStatus(phase=phase))
        return self.event("Pod", namespace, name, pod)

    def gone(self, kind: str, namespace: str, name: str) -> Event:
        return self.event(kind, namespace, name, None)

    def config_event(self, spec: dict[str, Any]) -> Event:
        meta = Meta(name="osm-mesh-config", namespace="meshlog-system")
        return self.event("MeshConfig", "meshlog-system", "osm-mesh-config", PolicyObject(metadata=meta, spec=spec))

    def bookstore(self) -> list[Event]:
        """A member namespace with two workloads, and the control plane's own namespace with an edge."""
        return [
            self.issuer_event(),
            self.namespace_event("bookstore"),
            self.namespace_event("meshlog-system", monitored_by=""),
            self.account_event("bookstore", "bookbuyer"),
            self.account_event("bookstore", "bookthief"),
            self.account_event("meshlog-system", "meshlog-xds-edge"),
            self.pod_event("bookstore", "bookbuyer-1", "bookbuyer"),
            self.pod_event("bookstore", "bookthief-1", "bookthief"),
            self.pod_event("meshlog-system", "meshlog-xds-edge-1", "meshlog-xds-edge"),
        ]


async def write(log: EventLog, events: list[Event], *, epoch: str = "", streams: Streams | None = None) -> None:
    """Append events to the log of their cluster as an ingestor does."""
    streams = streams or Streams()
    scope = streams.cluster_scope(events[0].cluster)
    after = await log.tip(scope)
    drafts = [Draft(subject=event.subject(streams), payload=encode(event)) for event in events]
    await log.append(drafts, scope=scope, after=after, epoch=epoch or ("" if after.epoch else "epoch-1"))
