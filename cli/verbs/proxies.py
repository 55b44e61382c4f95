"""`meshlog proxies`: every proxy, and what it holds."""

from __future__ import annotations

import argparse
import asyncio
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING, TextIO

if TYPE_CHECKING:
    from cli.history.standing import ProxyState


def main(argv: Sequence[str]) -> int:
    """List; 0 if every proxy is in sync, else 1."""
    parser = argparse.ArgumentParser(
        prog="meshlog proxies",
        description="List the proxies: in sync, behind, refusing, gone.",
        epilog="exit code: 0 every proxy is in sync, 1 one is not",
    )
    parser.add_argument("-o", "--output", choices=["table", "wide"], default="table", help="wide: edge, class, reason")
    from cli.history import source as sources

    sources.add_arguments(parser)
    options = parser.parse_args(argv)

    from cli.history.standing import proxy_states, tracked

    async def look() -> list[ProxyState]:
        async with sources.opened(options.log) as source:
            return proxy_states(await tracked(source))

    found = asyncio.run(look())
    table(sys.stdout, found, wide=options.output == "wide")
    return 0 if all(proxy.state == "in sync" for proxy in found) else 1


def table(out: TextIO, proxies: Sequence[ProxyState], *, wide: bool) -> None:
    """Columns as wide as what is in them; reasons of those that are not in sync always."""
    headings = ["PROXY", "STATE", "ACKNOWLEDGED", *(["EDGE", "CLASS"] if wide else []), "REASON"]
    rows = [
        [one.proxy, one.state, str(one.acknowledged), *([one.edge, one.workload_class] if wide else []), one.reason]
        for one in proxies
    ]
    widths = [max(map(len, column)) for column in zip(headings, *rows, strict=True)]
    for row in (headings, *rows):
        print("  ".join(f"{text:<{width}}" for text, width in zip(row, widths, strict=True)).rstrip(), file=out)
