"""The service proxy (kube-proxy and DNS records): computes the node's service routes and DNS names.

Each change recomputes the whole tables, once for any number of pending changes: they are small, and a recomputed table
cannot drift.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Iterator, Mapping, Sequence

from deploy.devcluster import object_fields
from deploy.devcluster.cluster_api import Obj
from deploy.devcluster.object_cache import ObjectCache
from deploy.devcluster.object_fields import Key
from deploy.devcluster.runtime import Runtime, ServiceRoute

_SLICES = "endpointslices.discovery.k8s.io"
_SERVICE_NAME = "kubernetes.io/service-name"


class ServiceProxy:
    """Keeps service routes and DNS names of the node in step with Services and EndpointSlices."""

    def __init__(self, cache: ObjectCache, runtime: Runtime, *, domain: str) -> None:
        self._cache = cache
        self._runtime = runtime
        self._domain = domain
        self._changed = asyncio.Event()
        self._routes: list[ServiceRoute] | None = None
        self._names: dict[str, tuple[str, ...]] | None = None

    def touch(self) -> None:
        """Request a reconciliation."""
        self._changed.set()

    async def run(self) -> None:
        """Reconcile after each change, for ever."""
        while True:
            await self._changed.wait()
            self._changed.clear()
            await self.reconcile()

    async def reconcile(self) -> None:
        """Compute routes and names, and set them on the runtime if they changed."""
        services, slices = self._cache.all("services"), self._cache.all(_SLICES)
        names = names_of(services, slices, self._domain)
        if names != self._names:
            await self._runtime.set_names(names)
            self._names = names
        routes = routes_of(services, slices)
        if routes != self._routes:
            await self._runtime.set_service_routes(routes)
            self._routes = routes


def routes_of(services: Iterable[Obj], slices: Iterable[Obj]) -> list[ServiceRoute]:
    """A route for each port of each Service with an address, sorted.

    Backends are the ready endpoints. If there are none, terminating endpoints that still serve are used, so that the
    last pod of a Service is replaced without rejected connections (KEP-1669).
    """
    by_service = _by_service(slices)
    routes: dict[tuple[str, int, str], ServiceRoute] = {}
    for service in sorted(
        services, key=lambda each: (each["metadata"].get("creationTimestamp", ""), object_fields.key(each))
    ):
        address = service["spec"].get("clusterIP") or ""
        if not address or address == "None":
            continue
        for port in service["spec"].get("ports") or []:
            protocol = port.get("protocol", "TCP")
            backends = _backends(by_service.get(object_fields.key(service), []), port.get("name", ""), protocol)
            route = ServiceRoute(
                cluster_ip=address, port=port["port"], protocol=protocol, backends=tuple(sorted(backends))
            )
            # If two Services request the same address, the older one keeps it.
            routes.setdefault((address, port["port"], protocol), route)
    return sorted(routes.values())


def _backends(slices: Sequence[Obj], name: str, protocol: str) -> set[tuple[str, int]]:
    ready: set[tuple[str, int]] = set()
    leaving: set[tuple[str, int]] = set()
    for each in slices:
        for port in each.get("ports") or []:
            if (port.get("name") or "") != name or port.get("protocol", "TCP") != protocol or not port.get("port"):
                continue
            for endpoint in each.get("endpoints") or []:
                conditions: Obj = endpoint.get("conditions") or {}
                backends = {(address, port["port"]) for address in endpoint["addresses"]}
                if conditions.get("ready") is not False:
                    ready |= backends
                elif conditions.get("serving") and conditions.get("terminating"):
                    leaving |= backends
    return ready or leaving


def names_of(services: Iterable[Obj], slices: Iterable[Obj], domain: str) -> dict[str, tuple[str, ...]]:
    """DNS names of all Services, and of pods of headless Services that have a host name."""
    by_service = _by_service(slices)
    names: dict[str, tuple[str, ...]] = {}
    for service in services:
        namespace, name = object_fields.key(service)
        full = f"{name}.{namespace}.svc.{domain}"
        address = service["spec"].get("clusterIP") or ""
        if address and address != "None":
            names[full] = (address,)
            continue
        if address != "None":
            continue
        own: dict[str, set[str]] = {full: set()}
        for endpoint in _ready_endpoints(by_service.get((namespace, name), [])):
            own[full].update(endpoint["addresses"])
            if endpoint.get("hostname"):
                own.setdefault(f"{endpoint['hostname']}.{full}", set()).update(endpoint["addresses"])
        names |= {each: tuple(sorted(addresses)) for each, addresses in own.items() if addresses}
    return names


def _ready_endpoints(slices: Iterable[Obj]) -> Iterator[Obj]:
    for each in slices:
        for endpoint in each.get("endpoints") or []:
            if (endpoint.get("conditions") or {}).get("ready") is not False:
                yield endpoint


def _by_service(slices: Iterable[Obj]) -> Mapping[Key, list[Obj]]:
    grouped: dict[Key, list[Obj]] = {}
    for each in slices:
        service = object_fields.labels(each).get(_SERVICE_NAME)
        if service and each.get("addressType", "IPv4") == "IPv4":
            grouped.setdefault((object_fields.namespace(each), service), []).append(each)
    return grouped
