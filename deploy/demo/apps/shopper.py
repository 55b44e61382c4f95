"""A shopper (the buyer, the thief): asks for a book each second and prints the result."""

from __future__ import annotations

import argparse
import asyncio
import sys
from collections.abc import Sequence

import aiohttp

TIMEOUT = aiohttp.ClientTimeout(total=8)


async def shop(url: str, pause: float) -> None:
    """Ask for ever; each change of outcome is one line."""
    outcome = ""
    while True:
        try:
            # A new session each time: a client that connects once, not one with a pool.
            async with aiohttp.ClientSession(timeout=TIMEOUT) as session, session.get(url) as answer:
                newest = f"{answer.status} {answer.headers.get('x-store', '')}"
        except (aiohttp.ClientError, TimeoutError) as error:
            newest = f"failed: {type(error).__name__} {error}"
        if newest != outcome:
            print(f"{url}: {newest}", flush=True)
            outcome = newest
        await asyncio.sleep(pause)


def main(argv: Sequence[str]) -> int:
    """Run one shopper."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--url", default="http://bookstore.bookstore.svc.cluster.local:14001/books-bought")
    parser.add_argument("--pause", type=float, default=1.0, help="seconds between two visits (default 1)")
    options = parser.parse_args(argv)
    asyncio.run(shop(options.url, options.pause))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
