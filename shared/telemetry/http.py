"""The HTTP server of every service: `/healthz` (alive), `/readyz` (may receive work), `/metrics`.

Hand-written, because aiohttp costs 10 MB resident in processes that need it for nothing else. Readiness is for load
balancers; each reason against it has a name and a sentence.
"""

from __future__ import annotations

import asyncio
import logging

import msgspec

from shared.errors import BadInputError
from shared.telemetry.metrics import Metrics

_log = logging.getLogger(__name__)
_LONGEST_REQUEST = 16 * 1024
_REQUEST_WITHIN = 5.0
_END = b"\r\n\r\n"


class Readiness:
    """Named conditions that must all hold before a service may be sent work."""

    def __init__(self) -> None:
        self._why_not: dict[str, str] = {}
        self._held: set[str] = set()
        self.remarks: dict[str, str] = {}
        """Remarks for people by name; they do not affect readiness."""

    def set(self, name: str, *, ready: bool, why: str = "") -> None:
        """Report whether one condition holds, and if not, why."""
        if ready:
            self._held.add(name)
            self._why_not.pop(name, None)
        else:
            self._held.discard(name)
            self._why_not[name] = why or "not yet"

    def remark(self, name: str, text: str) -> None:
        """Set a remark; an empty text removes it."""
        if text:
            self.remarks[name] = text
        else:
            self.remarks.pop(name, None)

    @property
    def ready(self) -> bool:
        """Whether every condition named so far holds; before the first is named, none does."""
        return bool(self._held) and not self._why_not

    @property
    def why_not(self) -> dict[str, str]:
        """The conditions that do not hold, each with its sentence."""
        if not self._held and not self._why_not:
            return {"started": "the service has not started yet"}
        return dict(self._why_not)


class HealthServer:
    """Serves health and metrics of one process: GET, one request a connection, which is what probes send."""

    def __init__(self, *, readiness: Readiness, metrics: Metrics) -> None:
        self._readiness = readiness
        self._metrics = metrics
        self._server: asyncio.Server | None = None
        self.port = 0
        """The port, once started; the assigned one if port 0 was requested."""

    async def start(self, host: str, port: int) -> None:
        """Listen; raises `BadInputError` if the address cannot be had."""
        try:
            self._server = await asyncio.start_server(self._serve, host, port, limit=_LONGEST_REQUEST)
        except OSError as error:
            reason = f"cannot be listened on ({error.strerror or error}); choose another --http-port"
            raise BadInputError("http/address", reason, about=f"{host}:{port}") from error
        self.port = self._server.sockets[0].getsockname()[1]

    async def stop(self) -> None:
        """Stop listening."""
        if self._server is not None:
            self._server.close()
            self._server = None

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            async with asyncio.timeout(_REQUEST_WITHIN):
                head = await reader.readuntil(b"\r\n\r\n")
                method, _, rest = head.decode("latin-1").partition(" ")
                writer.write(self.answer(method, rest.partition(" ")[0]))
                await writer.drain()
        except (asyncio.IncompleteReadError, asyncio.LimitOverrunError, OSError, TimeoutError) as error:
            _log.debug("a request for health or metrics failed: %s", error)
        finally:
            writer.close()

    def answer(self, method: str, path: str) -> bytes:
        """The whole response to one request, head and body (RFC 9112)."""
        if method not in ("GET", "HEAD"):
            return _response("405 Method Not Allowed", "text/plain", b"only GET\n", extra="Allow: GET, HEAD\r\n")
        match path.partition("?")[0]:
            case "/healthz":
                response = _response("200 OK", "text/plain", b"ok\n")
            case "/readyz":
                ready = self._readiness.ready
                why_not = {} if ready else self._readiness.why_not
                shown = {"ready": ready, "why_not": why_not}
                if self._readiness.remarks:
                    shown["remarks"] = self._readiness.remarks
                body = msgspec.json.encode(shown)
                response = _response("200 OK" if ready else "503 Service Unavailable", "application/json", body)
            case "/metrics":
                body = self._metrics.render().encode()
                response = _response("200 OK", "text/plain; version=0.0.4; charset=utf-8", body)
            case _:
                response = _response("404 Not Found", "text/plain", b"/healthz, /readyz, /metrics\n")
        return response.partition(_END)[0] + _END if method == "HEAD" else response


def _response(status: str, content_type: str, body: bytes, *, extra: str = "") -> bytes:
    head = (
        f"HTTP/1.1 {status}\r\nContent-Type: {content_type}\r\nContent-Length: {len(body)}\r\n{extra}Connection: close"
    )
    return head.encode("latin-1") + _END + body
