"""Which connections a real Envoy ends when its listeners change, against what `meshlog plan` says of the change."""

from __future__ import annotations

import asyncio
import contextlib
import json
import socket
from collections.abc import AsyncGenerator, Callable
from pathlib import Path
from typing import Any

import pytest
from envoy.config.cluster.v3.cluster_pb2 import Cluster
from envoy.config.core.v3.address_pb2 import Address
from envoy.config.endpoint.v3.endpoint_components_pb2 import LbEndpoint, LocalityLbEndpoints
from envoy.config.listener.v3.listener_components_pb2 import Filter, FilterChain
from envoy.config.listener.v3.listener_pb2 import Listener
from envoy.extensions.filters.network.tcp_proxy.v3.tcp_proxy_pb2 import TcpProxy
from google.protobuf.json_format import MessageToDict

from cli.plan.draining import DEFAULT_CHAIN, ended
from cli.plan.envoy_validation import find_envoy
from tests.waiting import eventually

pytestmark = pytest.mark.envoy

SOURCES = {"a": "127.0.0.1", "b": "127.0.0.2", DEFAULT_CHAIN: "127.0.0.3"}
"""Chain → the address whose connections it takes."""


def _address(host: str, port: int) -> Address:
    found = Address()
    found.socket_address.address, found.socket_address.port_value = host, port
    return found


def _chain(name: str, prefix: str = "x") -> FilterChain:
    chain = FilterChain(name=name)
    proxy = TcpProxy(stat_prefix=prefix, cluster="echo")
    chain.filters.add().CopyFrom(Filter(name="envoy.filters.network.tcp_proxy"))
    chain.filters[0].typed_config.Pack(proxy)
    if name != DEFAULT_CHAIN:
        chain.filter_chain_match.source_prefix_ranges.add(address_prefix=SOURCES[name]).prefix_len.value = 32
    return chain


def _listener(name: str, port: int) -> Listener:
    listener = Listener(name=name, address=_address("127.0.0.1", port))
    listener.filter_chains.extend([_chain("a"), _chain("b")])
    listener.default_filter_chain.CopyFrom(_chain(DEFAULT_CHAIN))
    return listener


def _chain_changes(listener: Listener) -> None:
    listener.filter_chains[1].CopyFrom(_chain("b", "other"))


def _chain_goes(listener: Listener) -> None:
    del listener.filter_chains[1]


def _chain_comes(listener: Listener) -> None:
    chain = _chain("a")
    chain.name = "c"
    chain.filter_chain_match.source_prefix_ranges[0].address_prefix = "127.0.0.9"
    listener.filter_chains.append(chain)


def _chains_swap(listener: Listener) -> None:
    chains = list(reversed(listener.filter_chains))
    del listener.filter_chains[:]
    listener.filter_chains.extend(chains)


def _default_changes(listener: Listener) -> None:
    listener.default_filter_chain.CopyFrom(_chain(DEFAULT_CHAIN, "other"))


def _default_goes(listener: Listener) -> None:
    listener.ClearField("default_filter_chain")


def _rest_changes(listener: Listener) -> None:
    listener.per_connection_buffer_limit_bytes.value = 4096


CHANGES: dict[str, Callable[[Listener], None] | None] = {
    "nothing": lambda _: None,
    "chain changes": _chain_changes,
    "chain goes": _chain_goes,
    "chain comes": _chain_comes,
    "chains swap": _chains_swap,
    "default changes": _default_changes,
    "default goes": _default_goes,
    "rest changes": _rest_changes,
    "listener goes": None,
}


async def _echo(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    with contextlib.suppress(OSError):
        while data := await reader.read(100):
            writer.write(data)
    writer.close()


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def _write(path: Path, listeners: list[Listener]) -> None:
    """Put a new version of the listeners where Envoy looks: it follows files that are moved there."""
    kind = "type.googleapis.com/envoy.config.listener.v3.Listener"
    found: Any = [MessageToDict(one, preserving_proto_field_name=True) for one in listeners]
    for one in found:
        one["@type"] = kind
    fresh = path.with_suffix(".new")
    fresh.write_text(json.dumps({"resources": found}))
    fresh.replace(path)


@contextlib.asynccontextmanager
async def _envoy(folder: Path, upstream: int) -> AsyncGenerator[None]:
    binary = find_envoy()
    assert binary is not None
    endpoint = LbEndpoint()
    endpoint.endpoint.address.CopyFrom(_address("127.0.0.1", upstream))
    cluster = Cluster(name="echo")
    cluster.connect_timeout.seconds = 5
    cluster.load_assignment.cluster_name = "echo"
    cluster.load_assignment.endpoints.append(LocalityLbEndpoints(lb_endpoints=[endpoint]))
    config: dict[str, Any] = {
        "node": {"id": "n", "cluster": "c"},
        "dynamic_resources": {"lds_config": {"path_config_source": {"path": str(folder / "lds.json")}}},
        "static_resources": {"clusters": [MessageToDict(cluster, preserving_proto_field_name=True)]},
    }
    argv = ["-c", str(folder / "envoy.json"), "-l", "error", "--use-dynamic-base-id", "--concurrency", "1"]
    argv += ["--drain-time-s", "1", "--drain-strategy", "immediate"]
    (folder / "envoy.json").write_text(json.dumps(config))
    process = await asyncio.create_subprocess_exec(binary, *argv)
    try:
        yield
    finally:
        process.terminate()
        await process.wait()


class Held:
    """A connection that is kept open, and says when it ends."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader, self._writer = reader, writer
        self.heard = 0
        self._end = asyncio.ensure_future(self._wait())

    async def _wait(self) -> None:
        with contextlib.suppress(OSError):
            while data := await self._reader.read(100):
                self.heard += len(data)

    @property
    def over(self) -> bool:
        return self._end.done()

    def say(self) -> None:
        self._writer.write(b"x")

    async def close(self) -> None:
        self._end.cancel()
        await asyncio.gather(self._end, return_exceptions=True)
        self._writer.close()
        with contextlib.suppress(OSError):
            await self._writer.wait_closed()


async def _connected(port: int, source: str) -> Held:
    """A connection through Envoy, as soon as it listens; a byte has come back."""
    async with asyncio.timeout(20):
        while True:
            try:
                reader, writer = await asyncio.open_connection("127.0.0.1", port, local_addr=(source, 0))
            except OSError:
                await asyncio.sleep(0.05)
                continue
            writer.write(b"x")
            if await reader.read(1) == b"x":
                return Held(reader, writer)
            writer.close()


async def test_what_a_plan_says_will_end_is_what_a_real_envoy_ends(tmp_path: Path) -> None:
    echo = await asyncio.start_server(_echo, "127.0.0.1", 0)
    upstream = echo.sockets[0].getsockname()[1]
    ports = {name: _free_port() for name in CHANGES}
    before = {name: _listener(name, port) for name, port in ports.items()}
    after: dict[str, Listener] = {}
    for name, change in CHANGES.items():
        if change is not None:
            after[name] = _listener(name, ports[name])
            change(after[name])
    told = {name: ended(before[name], after.get(name)) for name in CHANGES}
    expected = {
        (name, chain) for name, chains in told.items() if chains is not None for chain in (chains or tuple(SOURCES))
    }
    assert 0 < len(expected) < len(CHANGES) * len(SOURCES)
    _write(tmp_path / "lds.json", list(before.values()))
    async with echo, _envoy(tmp_path, upstream):
        held = {
            (name, chain): await _connected(port, source)
            for name, port in ports.items()
            for chain, source in SOURCES.items()
        }
        try:
            _write(tmp_path / "lds.json", list(after.values()))

            def over() -> set[tuple[str, str]]:
                return {key for key, one in held.items() if one.over}

            await eventually(
                lambda: over() >= expected, within=20, what=f"all that is to end ends: {expected - over()}"
            )
            # Every drain began with the same update and takes the same second: what is still there has been spared.
            assert over() == expected
            spared = [one for key, one in held.items() if key not in expected]
            for one in spared:
                one.say()
            await eventually(lambda: all(one.heard for one in spared), within=5, what="what stays carries bytes")
        finally:
            for one in held.values():
                await one.close()
