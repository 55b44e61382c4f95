"""`python -m benchmarks.swarm`: load any xDS server with delta-ADS proxies and print what they received.

A first phase connects every proxy; then, every `--window` seconds, one line of JSON reports what came since the last:
how long after the first ACK of the window the last proxy acknowledged, how many resources and bytes arrived, and what
share of a core the swarm itself took. A change made to the server within a window is what such a line measures; with
`--mark` the swarm waits for a line on standard input instead, and counts from the moment that it was given.
"""

from __future__ import annotations

import argparse
import asyncio
import ssl
import sys
import time
from pathlib import Path

import msgspec

from benchmarks.swarm.driver import percentiles, swarm
from benchmarks.swarm.fleet import Report
from benchmarks.swarm.proxy import Target
from shared.errors import BadInputError


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.swarm", description=(__doc__ or "").split("\n\n")[0])
    parser.add_argument("target", help="HOST:PORT of the server")
    parser.add_argument("-n", "--proxies", type=int, default=100, help="how many (default 100)")
    parser.add_argument("-p", "--processes", type=int, default=1, help="processes they are spread over (default 1)")
    parser.add_argument("--roots", default="", help="file of roots: TLS; without it plain HTTP/2")
    parser.add_argument("--authority", default="", help="name in the server's certificate (default: HOST)")
    parser.add_argument("--tokens", default="", help="file with one bearer token a line, the first for proxy 0")
    parser.add_argument("--node", default="sidecar~{number}", help="node id, {number} is the proxy's")
    parser.add_argument("--secret", action="append", default=[], help="SDS name to ask for; may be repeated")
    parser.add_argument("--ramp", type=float, default=0.0, help="new connections a second (default: all at once)")
    parser.add_argument("--within", type=float, default=600.0, help="seconds for all to connect (default 600)")
    parser.add_argument("--slow", type=int, default=0, help="how many never read")
    parser.add_argument("--churn", type=float, default=0.0, help="connections dropped a second, to come back warm")
    parser.add_argument("--window", type=float, default=5.0, help="seconds between two lines (default 5)")
    parser.add_argument("--windows", type=int, default=0, help="how many lines (default: until interrupted)")
    parser.add_argument("--mark", action="store_true", help="a window begins with a line on standard input")
    return parser.parse_args()


def _proxies(options: argparse.Namespace) -> list[tuple[str, str]]:
    """Node id and token of each; raises `BadInputError`."""
    tokens = [""] * options.proxies
    if options.tokens:
        try:
            tokens = Path(options.tokens).read_text(encoding="utf-8").split()
        except (OSError, UnicodeDecodeError) as error:
            raise BadInputError("swarm/tokens", f"cannot be read: {error}", about=options.tokens) from error
    if len(tokens) < options.proxies:
        raise BadInputError(
            "swarm/tokens", f"holds {len(tokens)} tokens, {options.proxies} are needed", about=options.tokens
        )
    return [(options.node.replace("{number}", str(number)), tokens[number]) for number in range(options.proxies)]


def _target(options: argparse.Namespace) -> Target:
    """The server; raises `BadInputError`."""
    host, _, port = options.target.rpartition(":")
    if not host or not port.isdecimal() or int(port) > 65_535:
        raise BadInputError("swarm/target", "is no HOST:PORT", about=options.target)
    if options.roots:
        try:
            ssl.create_default_context(cafile=options.roots)
        except (OSError, ssl.SSLError) as error:
            raise BadInputError("swarm/roots", f"holds no roots: {error}", about=options.roots) from error
    return Target(
        host=host.strip("[]"),
        port=int(port),
        authority=options.authority,
        roots=options.roots,
        secrets=tuple(options.secret),
    )


async def _run(options: argparse.Namespace) -> None:
    async with swarm(
        _target(options),
        _proxies(options),
        processes=options.processes,
        ramp=options.ramp,
        slow=options.slow,
        churn=options.churn,
    ) as running:
        began = time.monotonic()
        first = await running.until(lambda report: report.connected >= options.proxies, within=options.within)
        _print("connected", first, 0, time.monotonic() - began)
        count = 0
        while not options.windows or count < options.windows:
            if options.mark:
                await asyncio.to_thread(sys.stdin.readline)
            marked = await running.mark()
            await asyncio.sleep(options.window)
            _print("window", await running.report(), marked if options.mark else 0, options.window)
            count += 1


def _print(what: str, report: Report, marked: int, seconds: float) -> None:
    zero = marked or min(report.first.values(), default=0)
    p50, p99, p999 = percentiles([(at - zero) / 1e6 for at in report.answers.values()])
    line = {
        "what": what,
        "seconds": round(seconds, 2),
        "proxies": report.connected,
        "answered": len(report.answers),
        "ms": {"p50": round(p50, 2), "p99": round(p99, 2), "p99.9": round(p999, 2)},
        "acks": report.acks,
        "resources": report.resources,
        "bytes": report.bytes,
        "opened": report.opened,
        "ended": report.ended,
        "failed": report.failed,
        "swarm_cpu_share": round(report.cpu / seconds, 3) if seconds else 0.0,
    }
    print(msgspec.json.encode(line).decode(), flush=True)


def main() -> int:
    """Run until done or interrupted."""
    try:
        asyncio.run(_run(_arguments()))
    except KeyboardInterrupt:
        return 130
    except BadInputError as error:
        print(f"swarm: {error}", file=sys.stderr)
        return 2
    except TimeoutError as error:
        print(f"swarm: not all could connect: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
