"""The warehouse: `POST /restock` books one copy out, in the database, over TCP."""

from __future__ import annotations

import argparse
import asyncio
import sys
from collections.abc import Sequence

from aiohttp import web

DATABASE_TIMEOUT = 5.0
"""Seconds for one exchange with the database."""


async def book_out(host: str, port: int) -> str:
    """One `ADD 1` on a connection of its own; raises `OSError` if the database cannot be reached."""
    async with asyncio.timeout(DATABASE_TIMEOUT):
        reader, writer = await asyncio.open_connection(host, port)
        try:
            writer.write(b"ADD 1\n")
            answer = (await reader.readline()).decode("ascii", "replace").strip()
        finally:
            writer.close()
    if not answer.startswith("OK "):
        raise ConnectionError(answer or "the connection was closed")
    return answer.removeprefix("OK ")


def application(host: str, port: int) -> web.Application:
    """The warehouse's HTTP interface, in front of the database at host and port."""

    async def restock(_: web.Request) -> web.Response:
        try:
            total = await book_out(host, port)
        except OSError as error:
            return web.json_response({"error": f"database: {error or type(error).__name__}"}, status=503)
        return web.json_response({"total": int(total)})

    async def alive(_: web.Request) -> web.Response:
        return web.Response(text="ok\n")

    app = web.Application()
    app.add_routes([web.post("/restock", restock), web.get("/alive", alive)])
    return app


def main(argv: Sequence[str]) -> int:
    """Run the warehouse."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--port", type=int, default=14001)
    parser.add_argument("--database", default="database.database.svc.cluster.local:5432", help="HOST:PORT")
    options = parser.parse_args(argv)
    host, _, port = options.database.rpartition(":")
    web.run_app(application(host, int(port)), port=options.port, print=None, access_log=None)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
