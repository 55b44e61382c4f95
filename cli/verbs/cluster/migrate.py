"""`meshlog migrate osm`: reports how each object of Open Service Mesh would migrate. Changes nothing."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from cli.terminal import output
from cli.terminal.deadline import add_timeout, run

if TYPE_CHECKING:
    from cli.migrate.context import Advice
    from cli.terminal.deadline import Deadline

_EPILOG = """\
examples:
  meshlog migrate osm                        read the cluster of the current kubeconfig
  meshlog migrate osm -f policies/           read files instead: manifests, a rendered chart, or its values
  meshlog migrate osm --only "not yet"       what to give up, or to wait for

docs/migrate-from-osm.md has the whole way.
"""


def main(argv: Sequence[str]) -> int:
    """Print advice. Returns 0 for any advice."""
    from cli.cluster.target import add_target
    from cli.migrate.context import VERDICTS

    parser = argparse.ArgumentParser(
        prog="meshlog migrate",
        description="Say, object by object, what carries over, what differs and what to do.",
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("source", choices=["osm"], help="the mesh to come from: Open Service Mesh 1.x")
    parser.add_argument("-f", "--filename", type=Path, action="append", help="read a file or a folder, not a cluster")
    parser.add_argument("--only", choices=VERDICTS, action="append", help="only this verdict; may be repeated")
    parser.add_argument("-o", "--output", choices=["text", "json"], default="text")
    add_timeout(parser, 60.0)
    add_target(parser)
    options = parser.parse_args(argv)

    async def work(_: Deadline) -> int:
        return _told(await _advice(options), options)

    return run(work, options.timeout, of="the Kubernetes API")


def _told(advice: list[Advice], options: argparse.Namespace) -> int:
    found = [one for one in advice if not options.only or one.verdict in options.only]
    if options.output == "json":
        import msgspec

        output.json([msgspec.to_builtins(one) for one in found])
    else:
        _show(found, of=len(advice))
    return 0


async def _advice(options: argparse.Namespace) -> list[Advice]:
    from cli.cluster.target import session
    from cli.kubernetes.manifest_files import Manifest, read_manifests
    from cli.migrate import advice, inventory

    if options.filename:
        from cli.kubernetes.manifest_types import shaped
        from cli.migrate.chart import helm_values

        objects: list[Manifest] = [
            one for path in options.filename for one in read_manifests(path, foreign=helm_values)
        ]
        return advice.advise(shaped(objects, custom=True), options.mesh_name, complete=False)
    async with session(options) as api:
        return advice.advise(await inventory.read(api), options.mesh_name)


def _show(found: list[Advice], *, of: int) -> None:
    from cli.migrate.context import VERDICTS

    for verdict in VERDICTS:
        rows = [one for one in found if one.verdict == verdict]
        if rows:
            output.line(f"{verdict.upper()} ({len(rows)})")
        for one in rows:
            output.line(f"  {one.object}: {one.finding}")
            if one.action:
                output.line(f"      do: {one.action}")
    if not of:
        output.line("nothing of Open Service Mesh was found")
    elif not found:
        output.line(f"none of the {of} findings is of that kind")
