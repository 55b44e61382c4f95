"""Checks that ClusterIPs of Services are unique and inside the service network, as the API server of Kubernetes does.

Separate from the rules of one object (`kinds/builtin_rules.py`): allocation depends on all other Services.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable, Sequence

from deploy.devcluster.apiserver.object_store import Key, ObjectWrite, Store
from deploy.devcluster.apiserver.status_errors import StatusCause, invalid, wrong
from deploy.devcluster.cluster_api import Obj

SERVICES = "services"


def asked_for(service: Obj) -> tuple[str, ...]:
    """Addresses that a Service has or requests; empty if it is headless or an ExternalName."""
    spec = service.get("spec") or {}
    if spec.get("type") == "ExternalName":
        return ()
    texts = (spec.get("clusterIP"), *(spec.get("clusterIPs") or ()))
    return tuple(dict.fromkeys(text for text in texts if text and text != "None"))


class ClusterIps:
    """Checks requested ClusterIPs against the allocated ones."""

    def __init__(self, store: Store, network: str = "", reserved: Iterable[str] = ()) -> None:
        """`network`: network of all ClusterIPs, any if empty. `reserved`: addresses that no Service may have."""
        self._store = store
        self._network = ipaddress.ip_network(network) if network else None
        self._reserved = frozenset(reserved)

    def check(self, writes: Sequence[ObjectWrite]) -> None:
        """Check writes of one commit. Raises 422 if an address is allocated, reserved or outside the network."""
        changing = {write.key: write for write in writes if write.resource == SERVICES}
        if not any(asked_for(write.obj) for write in changing.values() if not write.remove):
            return
        taken: dict[str, Key] = dict.fromkeys(self._reserved, ("", ""))
        for stored in self._store.items(SERVICES):
            metadata = stored.obj["metadata"]
            key = (metadata["namespace"], metadata["name"])
            if key not in changing:
                taken.update(dict.fromkeys(asked_for(stored.obj), key))
        for key, write in changing.items():
            if not write.remove:
                self._take(taken, key, write.obj)

    def _take(self, taken: dict[str, Key], key: Key, service: Obj) -> None:
        causes = [cause for address in asked_for(service) if (cause := self._refusal(taken, address)) is not None]
        if causes:
            raise invalid("Service", "", key[1], causes)
        taken.update(dict.fromkeys(asked_for(service), key))

    def _refusal(self, taken: dict[str, Key], address: str) -> StatusCause | None:
        network = self._network
        if network is not None and ipaddress.ip_address(address) not in network:
            why = f"the provided IP ({address}) is not in the valid range. The range of valid IPs is {network}"
        elif address in taken:
            why = "provided IP is already allocated"
        else:
            return None
        return wrong("spec.clusterIPs", [address], f"failed to allocate IP {address}: {why}")
