"""`meshlog status`: one screen: is it running, what holds each proxy, what was left out."""

from __future__ import annotations

import argparse
import asyncio
import json
import sys
from collections.abc import Sequence
from typing import Any

from cli.rollout import Tracker


def main(argv: Sequence[str]) -> int:
    """Print the state of the embedded mesh; 0 if every proxy is in sync, 1 if not, 2 if there is no mesh."""
    parser = argparse.ArgumentParser(
        prog="meshlog status", description="Show the embedded mesh: its version, and what each proxy holds."
    )
    parser.add_argument(
        "-o", "--output", choices=["table", "json", "kubeconfig"], default="table", help="kubeconfig: only its path"
    )
    options = parser.parse_args(argv)

    from cli import embedded

    found = embedded.running()
    path = embedded.state_directory() / embedded.KUBECONFIG
    if options.output == "kubeconfig":
        print(path)
        return 0

    async def look() -> dict[str, Any]:
        async with embedded.attached() as mesh:
            return summary(mesh.tracker)

    state = asyncio.run(look())
    if options.output == "json":
        print(json.dumps({"running": True, "listeners": found["listeners"], "kubeconfig": str(path), **state}))
    else:
        _table(state, str(path))
    return 0 if all(proxy["state"] == "in sync" for proxy in state["proxies"]) else 1


def summary(tracker: Tracker) -> dict[str, Any]:
    """What the tracker knows, for people and machines: version, proxies by key, quarantine."""
    snapshot = tracker.snapshot
    proxies: list[dict[str, Any]] = []
    for key in sorted(snapshot.proxies):
        status = tracker.status.get(key)
        waiting = tracker.rollout(after=0, until=snapshot.version).waiting
        if status is None or not status.connected:
            state = "gone" if status is not None else "never connected"
        elif any(one.refusal for one in status.types.values()):
            state = "refusing"
        else:
            state = "behind" if key in waiting else "in sync"
        proxies.append(
            {
                "proxy": key.partition("/")[2],
                "state": state,
                "acknowledged": status.acked if status else 0,
                "edge": status.edge if status else "",
                "class": snapshot.proxies[key].workload_class,
            }
        )
    return {
        "version": snapshot.version,
        "proxies": proxies,
        "quarantine": [{"object": str(one.key), "code": one.code, "why": one.sentence} for one in snapshot.quarantine],
    }


def _table(state: dict[str, Any], kubeconfig: str) -> None:
    from rich.console import Console
    from rich.table import Table

    console = Console(file=sys.stdout)
    in_sync = sum(proxy["state"] == "in sync" for proxy in state["proxies"])
    console.print(f"version {state['version']}: {in_sync} of {len(state['proxies'])} proxies in sync")
    table = Table(box=None, pad_edge=False)
    for heading in ("PROXY", "STATE", "ACKNOWLEDGED", "EDGE", "CLASS"):
        table.add_column(heading)
    for proxy in state["proxies"]:
        table.add_row(*(str(proxy[name]) for name in ("proxy", "state", "acknowledged", "edge", "class")))
    console.print(table)
    for one in state["quarantine"]:
        console.print(f"left out: {one['object']}: {one['why']} [{one['code']}]", highlight=False)
    console.print(f"kubeconfig: {kubeconfig}", highlight=False)
