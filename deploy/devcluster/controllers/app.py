"""All controllers of the devcluster, wired to one mirror: which change concerns whom."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

from deploy.devcluster import object_fields
from deploy.devcluster.cluster import Cluster, Obj
from deploy.devcluster.controllers import claims as claiming
from deploy.devcluster.controllers.claims import Claims
from deploy.devcluster.controllers.deployments import Deployments
from deploy.devcluster.controllers.endpointslices import EndpointSlices
from deploy.devcluster.controllers.garbage import Garbage
from deploy.devcluster.controllers.namespaces import ROOT_CA, NamespaceDefaults
from deploy.devcluster.controllers.network import ServiceNetwork
from deploy.devcluster.controllers.replicasets import ReplicaSets
from deploy.devcluster.controllers.services import ServiceAddresses
from deploy.devcluster.controllers.statefulsets import StatefulSets
from deploy.devcluster.controllers.work_queue import Reconciler
from deploy.devcluster.object_cache import Change, Mirror
from deploy.devcluster.runtime import Runtime

_SLICES = "endpointslices.discovery.k8s.io"

MIRRORED = (
    "namespaces",
    "serviceaccounts",
    "configmaps",
    "secrets",
    "services",
    _SLICES,
    "pods",
    "replicasets.apps",
    "deployments.apps",
    "statefulsets.apps",
    claiming.RESOURCE,
)
"""The resources that a mirror must hold for the controllers (and the node agent) to work on it."""


class Controllers:
    """Every controller, each with its queue."""

    def __init__(
        self,
        cluster: Cluster,
        mirror: Mirror,
        runtime: Runtime,
        *,
        service_network: str,
        domain: str,
        ca_certificate: str,
        claims: Path,
        kept_namespace: str,
        now: Callable[[], float] = time.time,
    ) -> None:
        self._mirror = mirror
        self._claims = Claims(cluster, claims, kept_namespace=kept_namespace)
        self._slices = EndpointSlices(cluster, mirror)
        self._garbage = Garbage(cluster, mirror)
        self._network = ServiceNetwork(mirror, runtime, domain=domain)
        addresses = ServiceAddresses(cluster, mirror, network=service_network)
        self.deployments = Reconciler("deployment", Deployments(cluster, now=now).reconcile)
        self.replicasets = Reconciler("replicaset", ReplicaSets(cluster, now=now).reconcile)
        self.statefulsets = Reconciler("statefulset", StatefulSets(cluster, now=now).reconcile)
        self.addresses = Reconciler("service", addresses.reconcile)
        self.endpoints = Reconciler("endpointslice", self._slices.reconcile)
        self.namespaces = Reconciler("namespace", NamespaceDefaults(cluster, ca_certificate=ca_certificate).reconcile)
        self.garbage = Reconciler("garbage", self._garbage.reconcile)
        self.claims = Reconciler("claim", self._claims.reconcile)

    async def run(self) -> None:
        """Work for ever; the mirror must run beside it."""
        await self._mirror.synced.wait()
        for resource, subscriber in (
            ("namespaces", self._on_namespace),
            ("serviceaccounts", self._on_account),
            ("configmaps", self._on_config),
            ("services", self._on_service),
            (_SLICES, self._on_slice),
            ("pods", self._on_pod),
            ("replicasets.apps", self._on_replicaset),
            ("deployments.apps", self._on_deployment),
            ("statefulsets.apps", self._on_statefulset),
            (claiming.RESOURCE, self._on_claim),
        ):
            self._mirror.subscribe(resource, subscriber)
        for resource in self._mirror.resources:
            self._mirror.subscribe(resource, self._collector(resource))
        self._network.touch()
        try:
            await self._network.run()
        finally:
            for each in (
                self.deployments,
                self.replicasets,
                self.statefulsets,
                self.addresses,
                self.endpoints,
                self.namespaces,
                self.garbage,
                self.claims,
            ):
                await each.close()

    def _collector(self, resource: str) -> Callable[[Change], None]:
        def collect(change: Change) -> None:
            for key in self._garbage.note(resource, change):
                self.garbage.enqueue(key)

        return collect

    def _on_namespace(self, change: Change) -> None:
        self.namespaces.enqueue(object_fields.key(change.object))

    def _on_account(self, change: Change) -> None:
        if change.new is None and object_fields.name(change.object) == "default":
            self.namespaces.enqueue(("", object_fields.namespace(change.object)))

    def _on_config(self, change: Change) -> None:
        if object_fields.name(change.object) == ROOT_CA:
            self.namespaces.enqueue(("", object_fields.namespace(change.object)))

    def _on_service(self, change: Change) -> None:
        self.addresses.enqueue(object_fields.key(change.object))
        self.endpoints.enqueue(object_fields.key(change.object))
        self._network.touch()

    def _on_slice(self, change: Change) -> None:
        self._network.touch()
        service = object_fields.labels(change.object).get("kubernetes.io/service-name")
        if service:
            self.endpoints.enqueue((object_fields.namespace(change.object), service))

    def _on_pod(self, change: Change) -> None:
        for form in change.forms():
            for key in self._slices.concerned(form):
                self.endpoints.enqueue(key)
            self._enqueue_owner(form)
            for name in object_fields.claims_of(form):
                self.claims.enqueue((object_fields.namespace(form), name))
        if change.new is None:
            self._enqueue_grand_owner(change.object)
        elif object_fields.controller_of(change.new) is None:
            self._enqueue_adopters(change.new)

    def _enqueue_grand_owner(self, gone: Obj) -> None:
        """A Deployment that recreates waits for the last of its old pods."""
        owner = object_fields.controller_of(gone)
        if owner is not None and owner["kind"] == "ReplicaSet":
            found = self._mirror.get("replicasets.apps", object_fields.namespace(gone), owner["name"])
            if found is not None:
                self._enqueue_owner(found)

    def _enqueue_adopters(self, orphan: Obj) -> None:
        for each in self._mirror.all("replicasets.apps", object_fields.namespace(orphan)):
            if object_fields.selects(each["spec"]["selector"], object_fields.labels(orphan)):
                self.replicasets.enqueue(object_fields.key(each))

    def _enqueue_owner(self, obj: Obj) -> None:
        owner = object_fields.controller_of(obj)
        if owner is None:
            return
        queues = {"ReplicaSet": self.replicasets, "StatefulSet": self.statefulsets, "Deployment": self.deployments}
        queue = queues.get(owner["kind"])
        if queue is not None:
            queue.enqueue((object_fields.namespace(obj), owner["name"]))

    def _on_replicaset(self, change: Change) -> None:
        self.replicasets.enqueue(object_fields.key(change.object))
        self._enqueue_owner(change.object)

    def _on_deployment(self, change: Change) -> None:
        self.deployments.enqueue(object_fields.key(change.object))

    def _on_claim(self, change: Change) -> None:
        if change.new is not None:
            self.claims.enqueue(object_fields.key(change.new))
            return
        for each in self._mirror.all("statefulsets.apps", object_fields.namespace(change.object)):
            if each["spec"].get("volumeClaimTemplates"):
                self.statefulsets.enqueue(object_fields.key(each))  # it may wait for this one to be gone

    def _on_statefulset(self, change: Change) -> None:
        self.statefulsets.enqueue(object_fields.key(change.object))
