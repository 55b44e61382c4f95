"""Composition of the controllers: subscribes to the object cache, and enqueues the keys that a change affects."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

from deploy.devcluster import object_fields
from deploy.devcluster.cluster_api import Cluster, Obj
from deploy.devcluster.controllers import volume_claims as claiming
from deploy.devcluster.controllers.deployments import DeploymentController
from deploy.devcluster.controllers.endpointslices import EndpointSliceController
from deploy.devcluster.controllers.garbage_collector import GarbageCollector
from deploy.devcluster.controllers.namespace_defaults import NamespaceDefaults
from deploy.devcluster.controllers.reconciler import Reconciler
from deploy.devcluster.controllers.replicasets import ReplicaSetController
from deploy.devcluster.controllers.service_addresses import ServiceAddressController
from deploy.devcluster.controllers.service_proxy import ServiceProxy
from deploy.devcluster.controllers.statefulsets import StatefulSetController
from deploy.devcluster.controllers.volume_claims import ClaimController
from deploy.devcluster.object_cache import ObjectCache, ObjectChange
from deploy.devcluster.runtime import Runtime

_SLICES = "endpointslices.discovery.k8s.io"

CACHED_RESOURCES = (
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
"""The resources in the cache that controllers and kubelet need."""


class ControllerManager:
    """All controllers, each with its work queue."""

    def __init__(
        self,
        cluster: Cluster,
        cache: ObjectCache,
        runtime: Runtime,
        *,
        service_network: str,
        domain: str,
        ca_certificate: str,
        claims: Path,
        kept_namespace: str,
        now: Callable[[], float] = time.time,
    ) -> None:
        self._cache = cache
        self._claims = ClaimController(cluster, claims, kept_namespace=kept_namespace)
        self._slices = EndpointSliceController(cluster, cache)
        self._garbage = GarbageCollector(cluster, cache)
        self._network = ServiceProxy(cache, runtime, domain=domain)
        addresses = ServiceAddressController(cluster, cache, network=service_network)
        self.deployments = Reconciler("deployment", DeploymentController(cluster, now=now).reconcile)
        self.replicasets = Reconciler("replicaset", ReplicaSetController(cluster, now=now).reconcile)
        self.statefulsets = Reconciler("statefulset", StatefulSetController(cluster, now=now).reconcile)
        self.addresses = Reconciler("service", addresses.reconcile)
        self.endpoints = Reconciler("endpointslice", self._slices.reconcile)
        self.namespaces = Reconciler("namespace", NamespaceDefaults(cluster, ca_certificate=ca_certificate).reconcile)
        self.garbage = Reconciler("garbage", self._garbage.reconcile)
        self.claims = Reconciler("claim", self._claims.reconcile)

    async def run(self) -> None:
        """Run the controllers for ever; the cache must run concurrently."""
        await self._cache.synced.wait()
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
            self._cache.subscribe(resource, subscriber)
        for resource in self._cache.resources:
            self._cache.subscribe(resource, self._collector(resource))
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

    def _collector(self, resource: str) -> Callable[[ObjectChange], None]:
        def collect(change: ObjectChange) -> None:
            for key in self._garbage.note(resource, change):
                self.garbage.enqueue(key)

        return collect

    def _on_namespace(self, change: ObjectChange) -> None:
        self.namespaces.enqueue(object_fields.key(change.object))

    def _on_account(self, change: ObjectChange) -> None:
        if change.new is None and object_fields.name(change.object) == "default":
            self.namespaces.enqueue(("", object_fields.namespace(change.object)))

    def _on_config(self, change: ObjectChange) -> None:
        if object_fields.name(change.object) == object_fields.ROOT_CA:
            self.namespaces.enqueue(("", object_fields.namespace(change.object)))

    def _on_service(self, change: ObjectChange) -> None:
        self.addresses.enqueue(object_fields.key(change.object))
        self.endpoints.enqueue(object_fields.key(change.object))
        self._network.touch()

    def _on_slice(self, change: ObjectChange) -> None:
        self._network.touch()
        service = object_fields.labels(change.object).get("kubernetes.io/service-name")
        if service:
            self.endpoints.enqueue((object_fields.namespace(change.object), service))

    def _on_pod(self, change: ObjectChange) -> None:
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
        """Enqueue the Deployment: with the strategy Recreate it waits for the last old pod."""
        owner = object_fields.controller_of(gone)
        if owner is not None and owner["kind"] == "ReplicaSet":
            found = self._cache.get("replicasets.apps", object_fields.namespace(gone), owner["name"])
            if found is not None:
                self._enqueue_owner(found)

    def _enqueue_adopters(self, orphan: Obj) -> None:
        for each in self._cache.all("replicasets.apps", object_fields.namespace(orphan)):
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

    def _on_replicaset(self, change: ObjectChange) -> None:
        self.replicasets.enqueue(object_fields.key(change.object))
        self._enqueue_owner(change.object)

    def _on_deployment(self, change: ObjectChange) -> None:
        self.deployments.enqueue(object_fields.key(change.object))

    def _on_claim(self, change: ObjectChange) -> None:
        if change.new is not None:
            self.claims.enqueue(object_fields.key(change.new))
            return
        for each in self._cache.all("statefulsets.apps", object_fields.namespace(change.object)):
            if each["spec"].get("volumeClaimTemplates"):
                self.statefulsets.enqueue(object_fields.key(each))  # the set may wait for the removal of this claim

    def _on_statefulset(self, change: ObjectChange) -> None:
        self.statefulsets.enqueue(object_fields.key(change.object))
