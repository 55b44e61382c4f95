"""One check of one probe: HTTP, TCP, gRPC or a command in the container. `probe_schedule.py` interprets the results."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import Awaitable, Callable, Sequence

import aiohttp
import msgspec

from deploy.devcluster.cluster_api import Obj

Execute = Callable[[Sequence[str]], Awaitable[tuple[int, str]]]
"""Runs a command in the container. Returns exit code and output."""


class ProbeResult(msgspec.Struct, frozen=True):
    """The result of one check."""

    success: bool
    message: str = ""


class ProbeTarget(msgspec.Struct, frozen=True):
    """The container that is checked."""

    address: str
    ports: dict[str, int]
    """Named container ports."""
    execute: Execute


class ProbeHttpClient:
    """The HTTP client of all probes. It reuses no connection: each check includes accepting a connection."""

    def __init__(self) -> None:
        self._session: aiohttp.ClientSession | None = None
        # As on Kubernetes, an HTTPS probe does not verify the certificate.
        self._tls = ssl.create_default_context()
        self._tls.check_hostname = False
        self._tls.verify_mode = ssl.CERT_NONE

    async def get(self, url: str, headers: dict[str, str]) -> int:
        """Returns the status of the response; redirects are not followed."""
        if self._session is None:
            self._session = aiohttp.ClientSession(
                connector=aiohttp.TCPConnector(force_close=True, limit=0, ssl=self._tls, use_dns_cache=False),
                cookie_jar=aiohttp.DummyCookieJar(),
            )
        async with self._session.get(url, headers=headers, allow_redirects=False) as response:
            return response.status

    async def close(self) -> None:
        """Release the connections."""
        if self._session is not None:
            await self._session.close()


async def check(probe: Obj, target: ProbeTarget, http: ProbeHttpClient) -> ProbeResult:
    """Run the probe once, within its timeout. Failures of the container are results, not exceptions."""
    timeout = probe.get("timeoutSeconds") or 1
    try:
        async with asyncio.timeout(timeout):
            return await _check(probe, target, http)
    except TimeoutError:
        return ProbeResult(success=False, message=f"no answer within {timeout} s")
    except (OSError, aiohttp.ClientError, LookupError, ValueError) as error:
        return ProbeResult(success=False, message=str(error) or type(error).__name__)


async def _check(probe: Obj, target: ProbeTarget, http: ProbeHttpClient) -> ProbeResult:
    if "httpGet" in probe:
        return await _http(probe["httpGet"], target, http)
    if "tcpSocket" in probe:
        action: Obj = probe["tcpSocket"]
        _, writer = await asyncio.open_connection(action.get("host") or target.address, port_of(action["port"], target))
        writer.close()
        return ProbeResult(success=True)
    if "grpc" in probe:
        return await _grpc(probe["grpc"], target)
    code, printed = await target.execute(probe["exec"]["command"])
    return ProbeResult(success=code == 0, message=f"command ended with exit code {code}: {printed}")


async def _http(action: Obj, target: ProbeTarget, http: ProbeHttpClient) -> ProbeResult:
    scheme = (action.get("scheme") or "HTTP").lower()
    host = action.get("host") or target.address
    path = (action.get("path") or "/").lstrip("/")
    headers = {"User-Agent": "kube-probe/1.33", "Accept": "*/*"}
    headers |= {each["name"]: each["value"] for each in action.get("httpHeaders") or []}
    status = await http.get(f"{scheme}://{host}:{port_of(action['port'], target)}/{path}", headers)
    return ProbeResult(success=200 <= status < 400, message=f"HTTP probe failed with statuscode: {status}")


async def _grpc(action: Obj, target: ProbeTarget) -> ProbeResult:
    """The gRPC health protocol. Its two small messages are encoded here to avoid generated code."""
    import grpc.aio

    service = (action.get("service") or "").encode()
    request = b"\x0a" + bytes([len(service)]) + service if service else b""
    async with grpc.aio.insecure_channel(f"{target.address}:{action['port']}") as channel:
        try:
            answer: bytes = await channel.unary_unary("/grpc.health.v1.Health/Check")(request)
        except grpc.aio.AioRpcError as error:
            return ProbeResult(success=False, message=f"gRPC health check: {error.code().name}: {error.details()}")
    serving = answer == b"\x08\x01"
    return ProbeResult(success=serving, message="" if serving else "gRPC health check: not serving")


def port_of(port: int | str, target: ProbeTarget) -> int:
    """A port by number or by the name of a container port. Raises `LookupError` for a name that is not there."""
    if isinstance(port, int):
        return port
    if port.isdecimal():
        return int(port)
    if port not in target.ports:
        raise LookupError(f"the container has no port named {port}")
    return target.ports[port]
