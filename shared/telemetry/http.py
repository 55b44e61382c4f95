"""The HTTP side of every service: `/healthz` (alive), `/readyz` (may be sent work), `/metrics`.

Ready means what a load balancer needs to know; each reason for not being ready has a name and a sentence.
"""

from __future__ import annotations

import msgspec
from aiohttp import web

from shared.errors import BadInputError
from shared.telemetry.metrics import Metrics


class Readiness:
    """Named conditions that must all hold before a service may be sent work."""

    def __init__(self) -> None:
        self._why_not: dict[str, str] = {}
        self._held: set[str] = set()

    def set(self, name: str, *, ready: bool, why: str = "") -> None:
        """Say whether one condition holds, and why not."""
        if ready:
            self._held.add(name)
            self._why_not.pop(name, None)
        else:
            self._held.discard(name)
            self._why_not[name] = why or "not yet"

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
    """Serves health and metrics of one process."""

    def __init__(self, *, readiness: Readiness, metrics: Metrics) -> None:
        self._readiness = readiness
        self._metrics = metrics
        self._runner: web.AppRunner | None = None
        self.port = 0
        """The port that is listened on, once started; tells which one a request for port 0 got."""

    async def start(self, host: str, port: int) -> None:
        """Listen; raises `BadInputError` if the address cannot be had."""
        app = web.Application()
        app.router.add_get("/healthz", self._healthz)
        app.router.add_get("/readyz", self._readyz)
        app.router.add_get("/metrics", self._render)
        runner = web.AppRunner(app, access_log=None, handle_signals=False)
        await runner.setup()
        try:
            await web.TCPSite(runner, host, port, shutdown_timeout=1.0).start()
        except OSError as error:
            await runner.cleanup()
            reason = f"cannot be listened on ({error.strerror or error}); choose another --http-port"
            raise BadInputError("http/address", reason, about=f"{host}:{port}") from error
        self._runner = runner
        self.port = runner.addresses[0][1]

    async def stop(self) -> None:
        """Stop listening."""
        if self._runner is not None:
            await self._runner.cleanup()
            self._runner = None

    async def _healthz(self, _request: web.Request) -> web.Response:
        return web.Response(text="ok\n")

    async def _readyz(self, _request: web.Request) -> web.Response:
        ready = self._readiness.ready
        body = msgspec.json.encode({"ready": ready, "why_not": {} if ready else self._readiness.why_not})
        return web.Response(body=body, content_type="application/json", status=200 if ready else 503)

    async def _render(self, _request: web.Request) -> web.Response:
        body = self._metrics.render().encode()
        return web.Response(body=body, headers={"Content-Type": "text/plain; version=0.0.4; charset=utf-8"})
