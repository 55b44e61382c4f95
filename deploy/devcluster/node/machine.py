"""The runtime of the node: creates and connects sandboxes, and sets service routes and DNS names.

It works in the network namespace of its process, which must be root in its user namespace; the launcher provides both.
"""

from __future__ import annotations

import asyncio
import hashlib
import ipaddress
import os
import socket
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from deploy.devcluster.node import service_routes, veth
from deploy.devcluster.node.dns import DOMAIN, DnsServer, Zone
from deploy.devcluster.node.pod_addresses import PodAddressPool
from deploy.devcluster.node.sandbox import LinuxSandbox, PodFiles, VisibleFiles
from deploy.devcluster.node.spawner_client import Spawner
from deploy.devcluster.node.visible_files import shown
from deploy.devcluster.runtime import ServiceRoute
from shared.netfilter import transaction as ruleset
from shared.netfilter.netlink import NETFILTER, ROUTE, Message, NetlinkSocket

POD_NETWORK = ipaddress.IPv4Network("10.244.0.0/16")
SERVICE_NETWORK = ipaddress.IPv4Network("10.96.0.0/16")
NODE_IP = "10.244.0.1"
API_IP = "10.96.0.1"
DNS_IP = "10.96.0.10"


class LinuxRuntime:
    """Implements `deploy.devcluster.runtime.Runtime` with Linux namespaces. Created by `start`."""

    def __init__(self, state_dir: Path, spawner: Spawner, route: NetlinkSocket, rules: NetlinkSocket) -> None:
        self._state_dir = state_dir
        self._spawner = spawner
        self._route = route
        self._rules = rules
        own = (NODE_IP, API_IP, DNS_IP)
        guarded = (SERVICE_NETWORK, POD_NETWORK)
        veth.set_up_node(route, list(own), list(guarded))
        self._table, made = service_routes.set_up(NODE_IP, own, guarded)
        ruleset.commit(made, through=rules)
        self._addresses = PodAddressPool(POD_NETWORK, now=time.monotonic)
        self._routes: tuple[ServiceRoute, ...] = ()
        self._changing = asyncio.Lock()
        self._zone = Zone()
        self._dns = DnsServer(self._zone)
        self._shown = shown()

    @classmethod
    async def start(cls, state_dir: Path, *, on_lost: Callable[[], None] | None = None) -> LinuxRuntime:
        """Set up the node's network, DNS and the spawner. Files of pods are below `state_dir`/pods.

        `on_lost` is called if the spawner dies. By default the process exits, since no container can be started.
        """
        spawner = Spawner(on_lost or _end)
        try:
            runtime = cls(state_dir, spawner, NetlinkSocket(ROUTE), NetlinkSocket(NETFILTER))
            await runtime._dns.start(DNS_IP)
        except BaseException:
            await spawner.close()
            raise
        return runtime

    @property
    def node_ip(self) -> str:
        """Address of the node inside the devcluster's network."""
        return NODE_IP

    async def create_sandbox(
        self, *, uid: str, hostname: str, host_network: bool = False, namespace: str = "default"
    ) -> LinuxSandbox:
        """Create the sandbox of a pod; short DNS names are resolved in `namespace` first."""
        files = PodFiles(directory=self._state_dir / "pods" / uid / "sandbox")
        ip = NODE_IP if host_network else self._addresses.take()
        search = (f"{namespace}.svc.{DOMAIN}", f"svc.{DOMAIN}", DOMAIN)
        files.write(hostname=hostname, address=ip, name_server=DNS_IP, search=search)
        wire = "pod" + hashlib.sha256(uid.encode()).hexdigest()[:12]
        namespaces: list[int] = []
        if not host_network:
            try:
                namespaces = await self._make_network(wire, hostname, ip)
            except BaseException:
                self._addresses.give_back(ip)
                raise

        async def take_back() -> None:
            if not host_network:
                async with self._changing:
                    await asyncio.to_thread(veth.disconnect_pod, self._route, wire)
                    await self._transact(service_routes.pod_removed(self._table, ip))
                self._addresses.give_back(ip)

        return LinuxSandbox(
            self._spawner,
            ip=ip,
            files=files,
            namespaces=namespaces,
            seen=VisibleFiles(shown=self._shown, hidden=str(self._state_dir)),
            take_back=take_back,
        )

    async def _make_network(self, wire: str, hostname: str, ip: str) -> list[int]:
        *namespaces, route = await self._spawner.namespaces(hostname)
        try:
            with NetlinkSocket(ROUTE, made=socket.socket(fileno=route)) as pod:
                async with self._changing:
                    veth.connect_pod(self._route, pod, namespaces[0], wire, ip)
                    await self._transact(service_routes.pod_added(self._table, ip))
        except BaseException:
            for descriptor in namespaces:
                os.close(descriptor)
            raise
        return namespaces

    async def set_service_routes(self, routes: Sequence[ServiceRoute]) -> None:
        """Replace all virtual addresses, for pods and node."""
        async with self._changing:
            wanted = tuple(sorted(routes))
            if wanted == self._routes:
                return
            for transaction in service_routes.change(self._table, self._routes, wanted):
                await self._transact(transaction)
            self._routes = wanted

    async def set_names(self, names: Mapping[str, Sequence[str]]) -> None:
        """Replace all DNS names: fully qualified name (without trailing dot) → addresses."""
        self._zone.set(names)

    async def close(self) -> None:
        """End all processes and the DNS server. The network ends with its namespace."""
        await self._spawner.close()
        await self._dns.close()
        self._route.close()
        self._rules.close()

    async def _transact(self, messages: list[Message]) -> None:
        """Commit in a thread, because a commit waits until all CPUs have left the old rules. Requires `_changing`."""
        await asyncio.to_thread(ruleset.commit, messages, through=self._rules)


def _end() -> None:
    sys.stderr.write("the spawner ended: no container can be started any more, so the devcluster ends\n")
    sys.stderr.flush()
    os._exit(1)
