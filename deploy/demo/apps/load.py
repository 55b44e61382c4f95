"""A client that counts: calls a URL and prints one JSON object of what came back. Retries nothing.

    python -P -m deploy.demo.apps.load URL --requests 300
    python -P -m deploy.demo.apps.load URL --rate 100          (until its standard input closes)

The object: {"requests", "ok", "outcomes": {"200": n, "403": n, "refused": n, "reset": n, …},
"stores": {"v1": n}, "body": newest, "failures": [first few], "turns": [[when, outcome], …], "p50_ms", "p99_ms",
"longest_ms"}. A turn is a call whose outcome is another than that of the call before it, seconds since 1970.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import sys
import time
from collections import Counter
from collections.abc import Sequence

import aiohttp

FAILURES_KEPT = 5
TURNS_KEPT = 200


class CallResults:
    """What came back so far."""

    def __init__(self) -> None:
        self.outcomes: Counter[str] = Counter()
        self.stores: Counter[str] = Counter()
        self.bodies: list[str] = []
        self.failures: list[str] = []
        self.turns: list[tuple[float, str]] = []
        self.latencies: list[float] = []

    def summary(self) -> dict[str, object]:
        """The object that is printed."""
        ordered = sorted(self.latencies) or [0.0]
        return {
            "requests": len(self.latencies),
            "ok": self.outcomes["200"],
            "outcomes": dict(sorted(self.outcomes.items())),
            "stores": dict(sorted(self.stores.items())),
            "body": self.bodies[-1] if self.bodies else "",
            "failures": self.failures,
            "turns": self.turns,
            "p50_ms": round(ordered[len(ordered) // 2] * 1000, 2),
            "p99_ms": round(ordered[len(ordered) * 99 // 100] * 1000, 2),
            "longest_ms": round(ordered[-1] * 1000, 2),
        }


def outcome_of(error: BaseException) -> str:
    """The word a person uses: refused, closed, reset, hung, or the error's own name."""
    match error:
        case TimeoutError():
            return "hung"
        case aiohttp.ClientConnectorError() if isinstance(error.os_error, ConnectionRefusedError):
            return "refused"
        case aiohttp.ServerDisconnectedError():
            return "closed"
        case ConnectionResetError() | aiohttp.ClientOSError():
            return "reset"
        case _:
            return type(error).__name__


async def call(session: aiohttp.ClientSession, url: str, tally: CallResults) -> None:
    """Make one call and count it."""
    began = time.monotonic()
    try:
        async with session.get(url) as answer:
            body = await answer.text()
            outcome = str(answer.status)
            if answer.status == 200:
                tally.stores[answer.headers.get("x-store", "none")] += 1
            tally.bodies = [body[:65536]]
    except (aiohttp.ClientError, OSError) as error:
        outcome = outcome_of(error)
        body = f"{type(error).__name__}: {error}"
    tally.latencies.append(time.monotonic() - began)
    tally.outcomes[outcome] += 1
    if (not tally.turns or tally.turns[-1][1] != outcome) and len(tally.turns) < TURNS_KEPT:
        tally.turns.append((round(time.time(), 3), outcome))
    if outcome != "200" and len(tally.failures) < FAILURES_KEPT:
        tally.failures.append(f"{time.time():.3f} {outcome}: {body[:200]}")


async def wait_for_end_of_input() -> None:
    """Return when the parent process closes standard input."""
    loop = asyncio.get_running_loop()
    reader = asyncio.StreamReader()
    await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), sys.stdin)
    await reader.read()


async def load(url: str, *, requests: int, rate: float, concurrency: int, patience: float, reuse: bool) -> CallResults:
    """Call `requests` times, or at `rate` calls a second until the input ends when `requests` is 0."""
    tally = CallResults()
    connector = aiohttp.TCPConnector(limit=concurrency, force_close=not reuse)
    async with aiohttp.ClientSession(connector=connector, timeout=aiohttp.ClientTimeout(total=patience)) as session:
        if requests:
            gate = asyncio.Semaphore(concurrency)

            async def one() -> None:
                async with gate:
                    await call(session, url, tally)

            async with asyncio.TaskGroup() as group:
                for _ in range(requests):
                    group.create_task(one())
            return tally
        ended = asyncio.create_task(wait_for_end_of_input())
        print("loading", flush=True)
        began, sent = time.monotonic(), 0
        async with asyncio.TaskGroup() as group:
            while not ended.done():
                sent += 1
                group.create_task(call(session, url, tally))
                due = began + sent / rate
                await asyncio.wait([ended], timeout=max(0.0, due - time.monotonic()))
    return tally


def main(argv: Sequence[str]) -> int:
    """Run the client; exit code 0 whatever came back: judging is the caller's."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("url")
    parser.add_argument("--requests", type=int, default=0, help="how many; 0: until the input ends")
    parser.add_argument("--rate", type=float, default=100.0, help="calls a second when there is no --requests")
    parser.add_argument("--concurrency", type=int, default=8)
    parser.add_argument("--timeout", type=float, default=10.0, help="seconds after which a call has hung")
    parser.add_argument("--reuse", action="store_true", help="reuse connections (default: one a call)")
    options = parser.parse_args(argv)
    tally = asyncio.run(
        load(
            options.url,
            requests=options.requests,
            rate=options.rate,
            concurrency=options.concurrency,
            patience=options.timeout,
            reuse=options.reuse,
        )
    )
    print(json.dumps(tally.summary()), flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
