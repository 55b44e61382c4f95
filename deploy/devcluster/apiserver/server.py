"""Composition of the API server: store, kinds, admission, writer, reader, handlers and HTTPS listeners."""

from __future__ import annotations

import base64
import datetime as dt
import socket
import ssl
import time
from collections.abc import Callable, Sequence

import yaml
from aiohttp import web

from deploy.devcluster import object_fields
from deploy.devcluster.apiserver.access.authorization import Authorizer
from deploy.devcluster.apiserver.access.cluster_ca import ClusterCa
from deploy.devcluster.apiserver.access.default_roles import default_roles
from deploy.devcluster.apiserver.access.token_authentication import (
    ISSUER,
    IssuedToken,
    TokenAuthenticator,
)
from deploy.devcluster.apiserver.http.container_logs import LogSource
from deploy.devcluster.apiserver.http.handlers import RequestHandlers
from deploy.devcluster.apiserver.kinds.builtin_kinds import built_in
from deploy.devcluster.apiserver.kinds.kind_registry import KindRegistry
from deploy.devcluster.apiserver.local_cluster import LocalCluster
from deploy.devcluster.apiserver.object_store import Store
from deploy.devcluster.apiserver.read.list_watch import ListWatch
from deploy.devcluster.apiserver.write.admission_webhooks import AdmissionWebhooks, ResolveService
from deploy.devcluster.apiserver.write.cluster_ips import ClusterIps
from deploy.devcluster.apiserver.write.object_writer import ObjectWriter

NAMESPACES = ("default", "kube-system", "kube-public", "kube-node-lease")
_EPOCH = 1_735_689_600
"""2025-01-01. Resource versions start at ten per second since then, so they also grow over a restart."""


class ApiServer:
    """A Kubernetes API in memory. It starts without objects, with a new CA and new keys."""

    def __init__(
        self,
        *,
        sockets: Sequence[socket.socket] = (),
        addresses: Sequence[tuple[str, int]] = (),
        window: int = 1000,
        bookmark_seconds: float = 60.0,
        issuer: str = ISSUER,
        resolve_service: ResolveService | None = None,
        log_source: LogSource | None = None,
        clock: Callable[[], float] = time.time,
        first_revision: int | None = None,
        streaming_lists: bool = True,
        service_network: str = "",
        reserved_addresses: Sequence[str] = (),
    ) -> None:
        """`sockets` are listening sockets (inherited); `addresses` are bound at start, port 0 means any free port.

        `window`: changes per kind that a watch can go back. `first_revision`: first resource version.
        `streaming_lists`: whether WatchList is supported. `service_network`: network of ClusterIPs, any if empty;
        `reserved_addresses`: addresses of it that no Service may have.
        """
        first = int((clock() - _EPOCH) * 10) if first_revision is None else first_revision
        self.store = Store(window=window, first_revision=max(1, first))
        self.kinds = KindRegistry(built_in())
        self._ca = ClusterCa(dt.datetime.fromtimestamp(clock(), tz=dt.UTC))
        self._admission = AdmissionWebhooks(self.store, resolve_service or self._cluster_ip, self._identify)
        cluster_ips = ClusterIps(self.store, service_network, reserved_addresses)
        self.writer = ObjectWriter(self.store, self.kinds, self._admission, clock=clock, cluster_ips=cluster_ips)
        self.accounts = TokenAuthenticator(self.store, issuer=issuer, clock=clock)
        self.authorizer = Authorizer(self.store)
        self._cluster = LocalCluster(self.store, self.kinds, self.writer)
        self._handlers = RequestHandlers(
            store=self.store,
            kinds=self.kinds,
            reader=ListWatch(self.store, clock, bookmark_seconds=bookmark_seconds, streaming_lists=streaming_lists),
            writer=self.writer,
            accounts=self.accounts,
            authorizer=self.authorizer,
            clock=clock,
        )
        self._handlers.subresources.log_source = log_source
        self._tls = self._ca.server_context()
        self._sockets = list(sockets)
        self._addresses = list(addresses)
        self._runner: web.AppRunner | None = None

    @property
    def cluster(self) -> LocalCluster:
        """The in-process client."""
        return self._cluster

    def _identify(self, context: ssl.SSLContext) -> None:
        self._ca.identify(context, object_fields.API_SERVER)

    @property
    def ca_pem(self) -> str:
        """The CA that clients of the API trust; `ca.crt` of pods."""
        return self._ca.pem

    @property
    def log_source(self) -> LogSource | None:
        """The source of container logs; None if there is none."""
        return self._handlers.subresources.log_source

    @log_source.setter
    def log_source(self, source: LogSource | None) -> None:
        self._handlers.subresources.log_source = source

    @property
    def bound(self) -> list[tuple[str, int]]:
        """Addresses of the listeners."""
        return [tuple(address[:2]) for address in self._runner.addresses] if self._runner else []

    async def start(self) -> None:
        """Create the default namespaces and roles, and listen.

        Raises `OSError` if an address is taken.
        """
        for name in NAMESPACES:
            if await self._cluster.get("namespaces", "", name) is None:
                await self._cluster.create("namespaces", {"metadata": {"name": name}})
        for resource, role in default_roles():
            if await self._cluster.get(resource, "", role["metadata"]["name"]) is None:
                await self._cluster.create(resource, role)
        # Handlers are cancelled when the client disconnects; an idle watch would not detect it.
        self._runner = web.AppRunner(
            self._handlers.application(), access_log=None, handler_cancellation=True, shutdown_timeout=1.0
        )
        await self._runner.setup()
        for one in self._sockets:
            await web.SockSite(self._runner, one, ssl_context=self._tls).start()
        for host, port in self._addresses:
            await self.listen(host, port)

    async def listen(self, host: str, port: int) -> None:
        """Listen on one more address. `start` must have been called."""
        assert self._runner is not None, "start comes first"
        await web.TCPSite(self._runner, host, port, ssl_context=self._tls).start()

    async def stop(self) -> None:
        """Close listeners and connections; watches end."""
        if self._runner is not None:
            await self._runner.cleanup()
            self._runner = None
        await self._admission.close()

    def kubeconfig(self, server_url: str) -> str:
        """The kubeconfig of the administrator. It contains a secret: write it with mode 0600."""
        ca = base64.b64encode(self._ca.pem.encode()).decode()
        return yaml.safe_dump(
            {
                "apiVersion": "v1",
                "kind": "Config",
                "clusters": [{"name": "meshlog", "cluster": {"server": server_url, "certificate-authority-data": ca}}],
                "users": [{"name": "admin", "user": {"token": self.accounts.admin_token}}],
                "contexts": [{"name": "meshlog", "context": {"cluster": "meshlog", "user": "admin"}}],
                "current-context": "meshlog",
            },
            sort_keys=False,
        )

    def issue_token(
        self,
        namespace: str,
        account: str,
        *,
        audiences: Sequence[str] = (),
        seconds: int = 3600,
        pod: str = "",
        pod_uid: str = "",
    ) -> IssuedToken:
        """Issue a service-account token for the kubelet. Raises `KubeApiError` 400, 404, 409.

        The default audience is the API server. With `pod` the token is invalid once that pod is deleted.
        """
        return self.accounts.issue(namespace, account, audiences=audiences, seconds=seconds, pod=pod, pod_uid=pod_uid)

    async def _cluster_ip(self, namespace: str, name: str, port: int) -> tuple[str, int]:
        """Resolve the Service of a webhook to its ClusterIP. Raises `OSError`."""
        service = self.store.get("services", namespace, name)
        address = (service.obj["spec"].get("clusterIP") or "") if service else ""
        if not address or address == "None":
            raise OSError(f'service "{name}" not found in namespace "{namespace}", or it has no address yet')
        return address, port
