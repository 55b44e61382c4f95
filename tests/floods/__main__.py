"""One flood in a process of its own: `python -m tests.floods ORDER`, with the order as JSON; prints its counts.

Without an order it lists the floods.
"""

from __future__ import annotations

import asyncio
import logging
import resource
import sys

import msgspec

from tests.floods.catalogue import FLOODS, Order


def main(arguments: list[str]) -> int:
    """Run it; 2 for an order that is none."""
    if not arguments:
        for name, flood in FLOODS.items():
            print(f"{name:<22}{flood.what}")
        return 0
    try:
        order = msgspec.json.decode(arguments[0], type=Order)
        flood = FLOODS[order.name]
    except (msgspec.MsgspecError, KeyError) as error:
        print(f"attacks: no order: {error}", file=sys.stderr)
        return 2
    # asyncio warns of each write to a connection that the server has ended; an attack does that all the time.
    logging.getLogger("asyncio").setLevel(logging.CRITICAL)
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))

    async def run() -> bytes:
        print("begun", flush=True)
        return msgspec.json.encode(await flood.run(order.target, order.dose))

    print(asyncio.run(run()).decode(), flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
