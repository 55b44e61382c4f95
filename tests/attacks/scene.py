"""The mesh under attack: the bookstore with its traffic (`tests.faults.scene`), and where attackers stand in it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import msgspec

from cli.embedded.lifecycle import CLUSTER, PROXY_MARK
from tests.faults.scene import SYSTEM, Scene

if TYPE_CHECKING:
    from tests.attacks.attack import Cost

Place = tuple[str, str]
"""Namespace and `app` label of a pod."""

STRANGER: Place = ("outside", "passerby")
"""A pod on the network that is no member: no sidecar, no identity, no rights."""
MEMBER: Place = ("bookthief", "bookthief")
"""A member whom no policy allows anything."""
VICTIM: Place = ("bookbuyer", "bookbuyer")
"""A member that buys."""
PROXY = "envoy"
"""Container of the sidecar: the workload's token is there, and its traffic is not redirected (see `MARK`)."""
MARK = PROXY_MARK
"""Socket mark that passes the redirect of a pod of the embedded mesh."""


class AttackScene(Scene):
    """The scene of the fault suite, with what attackers need."""

    edge = f"meshlog-xds-edge.{SYSTEM}.svc.cluster.local:15128"
    """Where proxies find the edges."""
    injector = f"meshlog-injector.{SYSTEM}.svc.cluster.local:443"
    """The webhook."""
    nats = f"nats.{SYSTEM}.svc.cluster.local:4222"
    """The log."""
    cluster = CLUSTER

    async def address(self, place: Place) -> str:
        """IP address of the pod."""
        return (await self.addresses(f"/api/v1/namespaces/{place[0]}/pods", {"labelSelector": f"app={place[1]}"}))[0]

    async def addresses_of(self, service: str) -> list[str]:
        """IP addresses of the pods of a service of the control plane, `xds-edge` say, or of `nats`."""
        name = service if service == "nats" else f"meshlog-{service}"
        return await self.addresses(
            f"/api/v1/namespaces/{SYSTEM}/pods", {"labelSelector": f"app.kubernetes.io/name={name}"}
        )

    async def addresses(self, path: str, params: dict[str, str]) -> list[str]:
        """IP addresses of the pods of a list."""
        listing: dict[str, Any] = await self.api.get(path, params=params)
        found = [pod["status"]["podIP"] for pod in listing["items"] if pod.get("status", {}).get("podIP")]
        assert found, f"there is no pod with {params} at {path}"
        return found

    async def program(self, place: Place, module: str, *words: str, container: str = "", within: float = 60.0) -> Cost:
        """Run `python -P -m MODULE WORDS` in a container of that pod (its first); what it cost, by its last line."""
        return await self.command(place, ("python", "-P", "-m", module, *words), container=container, within=within)

    async def command(self, place: Place, argv: Sequence[str], *, container: str = "", within: float = 60.0) -> Cost:
        """The same of any command."""
        from tests.attacks.attack import Cost

        running = await self.start(place, argv, container=container)
        output = await running.finish(within=within)
        try:
            return msgspec.json.decode(output.splitlines()[-1], type=Cost)
        except (msgspec.DecodeError, IndexError) as error:
            raise ValueError(f"{' '.join(argv)} said no cost: {output[-500:]!r}") from error
