"""`meshlog apply`: objects into the embedded mesh."""

from __future__ import annotations

import argparse
import asyncio
import secrets
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from cli.api import Manifest


def main(argv: Sequence[str]) -> int:
    """Apply files and folders as one change set; with --wait also until every proxy concerned has acknowledged."""
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

    from cli.api import read_manifests
    from cli.embedded import attached

    manifests: list[Manifest] = [one for path in options.filename for one in read_manifests(path)]
    _mark_together(manifests)

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


def _mark_together(manifests: Sequence[Manifest]) -> None:
    """Make one change set of all that can change a proxy, so that it reaches proxies in one version."""
    from shared.model import ANNOTATION_CHANGE_SET, KINDS

    together = [one for one in manifests if one["kind"] in KINDS]
    if len(together) < 2:
        return
    identity = f"apply-{secrets.token_hex(4)}/{len(together)}"
    for one in together:
        annotations = one["metadata"].setdefault("annotations", {}) or {}
        one["metadata"]["annotations"] = {**annotations, ANNOTATION_CHANGE_SET: identity}
