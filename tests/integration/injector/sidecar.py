"""An Envoy from our bootstrap, as a test runs it: on ports that are free on this machine."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import msgspec

from services.injector.core.configuration import Installation
from services.injector.core.probe_listeners import NODE_ADDRESS, POD_ADDRESS
from services.injector.core.probes import Probe
from services.injector.core.proxy_bootstrap import bootstrap
from tests.integration.injector.edge import Envoy, Volume, status_of
from tests.ports import free_port
from tests.unit.injector.pods import INSTALLATION
from tests.waiting import eventually

POD, NODE = "127.0.0.3", "127.0.0.2"
"""Callers that bind no address are neither."""


class Sidecar:
    """An Envoy from our bootstrap, on ports that are free here."""

    def __init__(
        self,
        edge_port: int,
        volume: Volume,
        directory: Path,
        probes: Sequence[Probe],
        *,
        address: str = POD,
        node: str = NODE,
        **changes: Any,
    ) -> None:
        """`address` is the pod's, `node` its node's."""
        installation: Installation = msgspec.structs.replace(
            INSTALLATION, edge_host="127.0.0.1", edge_port=edge_port, **changes
        )
        self.admin = free_port()
        made = bootstrap(installation, probes, directory=str(volume.path), admin_port=self.admin)
        # What the kubelet does with the variable in the argument.
        text = json.dumps(made, ensure_ascii=False).replace(NODE_ADDRESS, node).replace(POD_ADDRESS, address)
        config: dict[str, Any] = json.loads(text)
        self.ports: dict[int, int] = {}
        for listener in config["static_resources"]["listeners"]:
            if "internal_listener" in listener:
                continue
            free = free_port()
            port = _socket(listener)["port_value"]
            self.ports[port] = free
            (handed_on,) = [each for each in _endpoints(config) if _socket(each).get("port_value") == port]
            for each in (listener, *listener["additional_addresses"], handed_on):
                _socket(each)["port_value"] = free
        arguments = ["--service-node", "shop/web-1", "--service-cluster", "web.shop"]
        arguments += ["--concurrency", "1", "--disable-hot-restart", "--log-level", "warning"]
        self.envoy = Envoy(config, arguments, directory / "envoy.log")

    def status(self, port: int, path: str) -> int:
        return status_of(f"http://127.0.0.1:{self.ports[port]}{path}")

    async def holds_back(self) -> None:
        """Envoy runs, but the pod does not answer: its workers wait for the first configuration."""

        async def probe() -> bool:
            initialising = await asyncio.to_thread(status_of, f"http://127.0.0.1:{self.admin}/ready") == 503
            return initialising and await asyncio.to_thread(self.status, 15902, "/meshlog/ready") == 0

        await eventually(probe, within=15.0, what="Envoy waits for its configuration")

    async def answers(self, port: int, path: str, status: int) -> None:
        async def probe() -> bool:
            return await asyncio.to_thread(self.status, port, path) == status

        try:
            await eventually(probe, within=15.0, what=f"{path} answers {status}")
        except AssertionError as error:
            error.add_note(f"{port} is {self.ports[port]}, admin {self.admin}\n{self.envoy.log.read_text()[-3000:]}")
            raise


def _socket(of: dict[str, Any]) -> dict[str, Any]:
    return of["address"].get("socket_address", {})


def _endpoints(config: dict[str, Any]) -> list[dict[str, Any]]:
    clusters = config["static_resources"]["clusters"]
    return [each["load_assignment"]["endpoints"][0]["lb_endpoints"][0]["endpoint"] for each in clusters]
