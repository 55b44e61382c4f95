"""The pod of one stream: its entry in the snapshot and its view, compared with the token and the client's address."""

from __future__ import annotations

from services.xds_edge.admission.token_origin import TokenOrigin
from services.xds_edge.errors import Code, StreamRefusedError
from services.xds_edge.snapshot.fleet import Fleet
from services.xds_edge.xds.ads import ClassView
from shared.identity.service_account_tokens import WorkloadToken
from shared.records.snapshot import Proxy, proxy_key


class StreamPod:
    """The pod of one stream, as the token names it."""

    __slots__ = ("_address", "_checked_addresses", "_fleet", "_origin", "_uid", "found", "key")

    def __init__(self, claims: WorkloadToken, address: str, *, fleet: Fleet, origin: TokenOrigin) -> None:
        """`address`: IP address of the client; empty if it is not known."""
        self.key = proxy_key(claims.cluster, claims.namespace, claims.pod_name)
        """`Proxy.key` of its proxy."""
        self.found = False
        """Whether the snapshot has had the pod since the stream was opened."""
        self._uid = claims.pod_uid
        self._address = address
        self._checked_addresses: tuple[str, ...] | None = None
        """Addresses of the pod that the client's address was compared with."""
        self._fleet = fleet
        self._origin = origin

    def look_up(self) -> tuple[Proxy, ClassView] | None:
        """The pod's entry and the view of its class, or None while the stream must wait for them.

        Raises `StreamRefusedError` if the pod is gone, or if the client's address is not the pod's and that is refused.
        """
        fleet = self._fleet
        proxy = fleet.proxy(self.key)
        if proxy is None or proxy.uid != self._uid:
            if self.found:
                raise StreamRefusedError(Code.PERMISSION_DENIED, "stream/pod-gone", "the pod is gone")
            return None
        view = fleet.view(proxy.workload_class)
        if view is None or not self._origin.settled(proxy.addresses):
            return None
        if proxy.addresses != self._checked_addresses:
            self._checked_addresses = proxy.addresses
            self._origin.check(self.key, self._address, proxy.addresses)
        self.found = True
        return proxy, view
