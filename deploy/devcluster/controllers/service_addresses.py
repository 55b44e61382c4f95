"""Allocates ClusterIPs: gives each Service that needs an address one.

Requested addresses are kept. Addresses are allocated round-robin, so that a released address is not reused soon while
clients still use it. The first 256 addresses are reserved for Services that request an address.
"""

from __future__ import annotations

import ipaddress
import logging
from collections.abc import Iterable

from deploy.devcluster import object_fields
from deploy.devcluster.cluster_api import Cluster, KubeApiError, Obj
from deploy.devcluster.object_cache import ObjectCache
from deploy.devcluster.object_fields import Key

_log = logging.getLogger(__name__)
_RESERVED = 256


class ServiceAddressPool:
    """Allocates free addresses of the service network round-robin."""

    def __init__(self, network: str) -> None:
        self._network = ipaddress.IPv4Network(network)
        self._next = _RESERVED

    def take(self, used: Iterable[str]) -> str:
        """Returns an address that is not in `used`. Raises `LookupError` if there is none."""
        taken = set(used)
        span = self._network.num_addresses - 1 - _RESERVED
        for step in range(span):
            offset = _RESERVED + (self._next - _RESERVED + step) % span
            address = str(self._network[offset])
            if address not in taken:
                self._next = offset + 1
                return address
        raise LookupError(f"no address is left in the service network {self._network}")


class ServiceAddressController:
    """Reconciles the ClusterIP of Services."""

    def __init__(self, cluster: Cluster, cache: ObjectCache, *, network: str) -> None:
        self._cluster = cluster
        self._cache = cache
        self._pool = ServiceAddressPool(network)
        self._given: dict[str, str] = {}
        """UID → allocated address that the cache may not contain yet."""

    async def reconcile(self, key: Key) -> float | None:
        """Allocate an address if the Service needs one and has none."""
        found = await self._cluster.get("services", *key)
        if found is None or object_fields.is_terminating(found):
            return None
        spec: Obj = found["spec"]
        if spec.get("type") == "ExternalName":
            return None
        address: str = spec.get("clusterIP") or ""
        if not address:
            address = self._take()
            self._given[object_fields.uid(found)] = address
            _log.debug("service %s/%s has the address %s", *key, address)
        elif spec.get("clusterIPs"):
            return None
        merge = {"spec": {"clusterIP": address, "clusterIPs": [address], "ipFamilies": ["IPv4"]}}
        try:
            await self._cluster.patch("services", *key, merge)
        except KubeApiError as error:
            if error.status != 422 or self._given.pop(object_fields.uid(found), None) is None:
                raise
            # Another Service has requested this address meanwhile: try the next one.
            return 0.0
        return None

    def _take(self) -> str:
        services = self._cache.all("services")
        present = {object_fields.uid(each): each["spec"].get("clusterIP") for each in services}
        self._given = {uid: address for uid, address in self._given.items() if not present.get(uid)}
        return self._pool.take([*(address for address in present.values() if address), *self._given.values()])
