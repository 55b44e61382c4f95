"""Holds one TCP connection to the database; prints `held` once it works, and how long it lasted when it is cut.

python -P -m deploy.demo.apps.hold database.database.svc.cluster.local 5432
"""

from __future__ import annotations

import asyncio
import json
import sys
import time
from collections.abc import Sequence

PAUSE = 0.1
"""Seconds between two questions."""


async def hold(host: str, port: int) -> None:
    """Ask for the total until the connection ends, or there is no answer for 5 s."""
    reader, writer = await asyncio.open_connection(host, port)
    answers, said = 0, False
    outcome = "closed"
    try:
        while True:
            writer.write(b"TOTAL\n")
            await writer.drain()
            async with asyncio.timeout(5):
                if not await reader.readline():
                    break
            answers += 1
            if not said:
                said = True
                print("held", flush=True)
            await asyncio.sleep(PAUSE)
    except ConnectionError as error:
        outcome = type(error).__name__
    except TimeoutError:
        outcome = "hung"
    print(json.dumps({"answers": answers, "outcome": outcome, "cut_at": time.time()}), flush=True)


def main(argv: Sequence[str]) -> int:
    """Run until the connection is cut."""
    asyncio.run(hold(argv[0], int(argv[1])))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
