"""`meshlog apply`: objects into the embedded mesh."""

from __future__ import annotations

import argparse
import asyncio
import secrets
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from cli import output

if TYPE_CHECKING:
    from cli.api import Applied, Manifest
    from cli.mesh import Mesh


_EPILOG = """\
exit code: 0 applied (with --wait: and acknowledged), 1 a proxy refuses, 2 bad input, 124 not acknowledged in time

example:
  meshlog apply -f policy.yaml --wait
"""


def main(argv: Sequence[str]) -> int:
    """Apply files and folders as one change set; with --wait also until every proxy concerned has acknowledged."""
    parser = argparse.ArgumentParser(
        prog="meshlog apply",
        description="Apply YAML to the embedded mesh, as `kubectl apply --server-side` does.",
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("-f", "--filename", type=Path, action="append", required=True, help="a file or a folder")
    parser.add_argument("--wait", action="store_true", help="wait until every proxy concerned has acknowledged")
    parser.add_argument("--timeout", type=float, default=30.0, help="seconds to wait at most (default 30)")
    options = parser.parse_args(argv)

    from cli.embedded import attached
    from cli.manifests import read_manifests

    manifests: list[Manifest] = [one for path in options.filename for one in read_manifests(path)]
    _mark_together(manifests)

    async def apply() -> int:
        async with attached() as mesh:
            applied = await mesh.apply(manifests)
            if options.wait:
                return await _wait(mesh, applied, options.timeout)
            for one in applied:
                output.line(f"{one.kind} {one.namespace}/{one.name}: applied".replace(" /", " "))
            return 0

    return asyncio.run(apply())


async def _wait(mesh: Mesh, applied: Sequence[Applied], seconds: float) -> int:
    """Wait for the change set, and nothing else, to arrive; the exit code."""
    from cli.history.arriving import TIMED_OUT, arrived, exit_code
    from cli.history.source import opened

    output.note("waiting for acknowledgements")
    answered, began = time.time_ns(), time.monotonic()
    try:
        async with asyncio.timeout(seconds):
            sequence = await mesh.written(applied)
    except TimeoutError:
        output.line(f"not in the log after {seconds:g} s: does the ingestor run? meshlog status")
        return TIMED_OUT
    if not sequence:
        output.line("applied; nothing of it changes a proxy by itself")
        return 0
    async with opened("") as source:
        found = await arrived(source, sequence, within=max(0.0, seconds - (time.monotonic() - began)))
    if found is None:
        output.line(f"no version holds it after {seconds:g} s: does a compiler run? meshlog status")
    elif found.complete:
        took = max(0, found.last_ack - answered) / 1e6 if found.last_ack else 0.0
        within = f"all acknowledged within {took:.1f} ms" if found.concerned else "nothing to acknowledge"
        output.line(f"version {found.version}: {found.concerned} proxies concerned, {within}")
    else:
        missing = found.refusals or [key.partition("/")[2] for key in found.waiting]
        word = "refused by" if found.refusals else f"not acknowledged within {seconds:g} s by"
        output.line(f"version {found.version}: {word} {', '.join(missing)}")
        output.line(f"more: meshlog rollout {found.version}")
    return exit_code(found)


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
