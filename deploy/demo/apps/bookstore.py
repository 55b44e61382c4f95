"""A bookstore: `GET /books-bought` returns its name, `GET /buy-a-book` also has the warehouse send a book."""

from __future__ import annotations

import argparse
import sys
from collections.abc import AsyncIterator, Sequence

import aiohttp
from aiohttp import web

WAREHOUSE_TIMEOUT = aiohttp.ClientTimeout(total=8)
SESSION: web.AppKey[aiohttp.ClientSession] = web.AppKey("session", aiohttp.ClientSession)


def application(identity: str, warehouse: str) -> web.Application:
    """The store named `identity`, which orders from the warehouse at that URL."""

    def describe(request: web.Request) -> dict[str, str]:
        # The sidecar adds the caller: the SPIFFE id of the client's certificate.
        return {"store": identity, "client": request.headers.get("x-forwarded-client-cert", "")}

    async def bought(request: web.Request) -> web.Response:
        return web.json_response(describe(request), headers={"x-store": identity})

    async def buy(request: web.Request) -> web.Response:
        try:
            async with request.app[SESSION].post(f"{warehouse}/restock") as answer:
                body = await answer.text()
                if answer.status != 200:
                    return web.json_response({"error": f"warehouse: {answer.status} {body}"}, status=503)
        except aiohttp.ClientError as error:
            return web.json_response({"error": f"warehouse: {error}"}, status=503)
        return web.json_response({**describe(request), "warehouse": body}, headers={"x-store": identity})

    async def alive(_: web.Request) -> web.Response:
        return web.Response(text="ok\n")

    async def client(app: web.Application) -> AsyncIterator[None]:
        async with aiohttp.ClientSession(timeout=WAREHOUSE_TIMEOUT) as session:
            app[SESSION] = session
            yield

    app = web.Application()
    app.cleanup_ctx.append(client)
    app.add_routes([web.get("/books-bought", bought), web.get("/buy-a-book", buy), web.get("/alive", alive)])
    return app


def main(argv: Sequence[str]) -> int:
    """Run one bookstore."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--identity", required=True)
    parser.add_argument("--port", type=int, default=14001)
    parser.add_argument("--warehouse", default="http://bookwarehouse.bookwarehouse.svc.cluster.local:14001")
    options = parser.parse_args(argv)
    web.run_app(application(options.identity, options.warehouse), port=options.port, print=None, access_log=None)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
