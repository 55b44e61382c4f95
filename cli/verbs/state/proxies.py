"""`meshlog proxies`: lists every proxy and its configuration."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from typing import TYPE_CHECKING

import msgspec

from cli.terminal import output
from cli.terminal.deadline import add_timeout, run

if TYPE_CHECKING:
    from cli.state.mesh_status import ProxyState
    from cli.terminal.deadline import Deadline


def main(argv: Sequence[str]) -> int:
    """Print the list. Returns 0 if every proxy is in sync, else 1."""
    parser = argparse.ArgumentParser(
        prog="meshlog proxies",
        description="List the proxies: in sync, behind, refusing, gone.",
        epilog="exit code: 0 every proxy is in sync, 1 one is not",
    )
    parser.add_argument(
        "-o", "--output", choices=["table", "wide", "json"], default="table", help="wide: also edge and class"
    )
    from cli.history import log_source as sources

    sources.add_arguments(parser)
    add_timeout(parser, 30.0)
    options = parser.parse_args(argv)

    from cli.arrival.log_tracker import tracked
    from cli.state.mesh_status import proxy_states

    async def work(_: Deadline) -> int:
        async with sources.opened(options.log) as source:
            found = proxy_states(await tracked(source))
        if options.output == "json":
            output.json([msgspec.to_builtins(one) for one in found])
        else:
            table(found, wide=options.output == "wide")
        return 0 if all(proxy.state == "in sync" for proxy in found) else 1

    return run(work, options.timeout)


def table(proxies: Sequence[ProxyState], *, wide: bool) -> None:
    """Print columns as wide as their content; always with the reasons of proxies that are not in sync."""
    headings = ["PROXY", "STATE", "ACKNOWLEDGED", *(["EDGE", "CLASS"] if wide else []), "REASON"]
    rows = [
        [one.proxy, one.state, one.acknowledged, *([one.edge, one.workload_class] if wide else []), one.reason]
        for one in proxies
    ]
    output.table(headings, rows)
