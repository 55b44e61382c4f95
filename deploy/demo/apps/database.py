"""The database: counts books, over a line protocol on TCP. `ADD n` answers the new total, `TOTAL` the total."""

from __future__ import annotations

import argparse
import asyncio
import sys
from collections.abc import Sequence


class BookCounter:
    """How many books the warehouse has sent out."""

    def __init__(self) -> None:
        self.total = 0

    def answer(self, line: str) -> str:
        """One request, one answer; an unknown request is refused."""
        match line.split():
            case ["ADD", amount] if amount.isdigit():
                self.total += int(amount)
                return f"OK {self.total}"
            case ["TOTAL"]:
                return f"OK {self.total}"
            case _:
                return "ERROR say `ADD n` or `TOTAL`"


async def serve(port: int) -> None:
    """Serve until cancelled."""
    counter = BookCounter()

    async def converse(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while line := await reader.readline():
                writer.write(counter.answer(line.decode("ascii", "replace").strip()).encode() + b"\n")
                await writer.drain()
        except ConnectionError as error:
            print(f"a client went away: {error}", flush=True)
        finally:
            writer.close()

    server = await asyncio.start_server(converse, "0.0.0.0", port)  # noqa: S104 (the pod's own network)
    print(f"database listens on {port}", flush=True)
    await server.serve_forever()


def main(argv: Sequence[str]) -> int:
    """Run the database."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--port", type=int, default=5432)
    asyncio.run(serve(parser.parse_args(argv).port))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
