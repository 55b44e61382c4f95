"""`meshlog apply`: objects into the embedded mesh."""

from __future__ import annotations

import argparse
import asyncio
import sys
from collections.abc import Sequence
from pathlib import Path


def main(argv: Sequence[str]) -> int:
    """Apply files and folders; with --wait also until every proxy concerned has acknowledged."""
    parser = argparse.ArgumentParser(
        prog="meshlog apply",
        description="Apply YAML to the embedded mesh, as `kubectl apply --server-side` does.",
        epilog="example:\n  meshlog apply -f policy.yaml --wait",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("-f", "--filename", type=Path, action="append", required=True, help="a file or a folder")
    parser.add_argument("--wait", action="store_true", help="wait until every proxy concerned has acknowledged")
    parser.add_argument("--timeout", type=float, default=30.0, help="seconds to wait at most (default 30)")
    options = parser.parse_args(argv)

    from cli.api import Manifest, read_manifests
    from cli.embedded import attached

    manifests: list[Manifest] = [one for path in options.filename for one in read_manifests(path)]

    async def apply() -> None:
        async with attached() as mesh:
            if not options.wait:
                for one in await mesh.apply(manifests):
                    print(f"{one.kind} {one.namespace}/{one.name}: applied".replace(" /", " "))
                return
            print("waiting for acknowledgements", file=sys.stderr)
            arrival = await mesh.change(put=manifests, within=options.timeout)
            print(
                f"version {arrival.rollout.version}: {arrival.rollout.concerned} proxies concerned, "
                f"all acknowledged within {arrival.milliseconds:g} ms"
            )

    asyncio.run(apply())
    return 0
