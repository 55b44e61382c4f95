"""`meshlog verify control-plane|connectivity`: is the mesh well, and can this pod call that one."""

from __future__ import annotations

import argparse
import asyncio
from collections.abc import Sequence
from typing import TYPE_CHECKING

from cli import output

if TYPE_CHECKING:
    from cli.cluster.health import Check

_EPILOG = """\
examples:
  meshlog verify control-plane
  meshlog verify connectivity --from-pod bookbuyer/bookbuyer-abc --to-pod bookstore/bookstore-xyz
"""


def main(argv: Sequence[str]) -> int:
    """Print each check; 0 if all are fine, 1 if not."""
    from cli.cluster.target import add_target

    parser = argparse.ArgumentParser(
        prog="meshlog verify",
        description="Check a mesh, step by step.",
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    actions = parser.add_subparsers(dest="action", required=True)
    plane = actions.add_parser("control-plane", aliases=["control-plane-health"], help="are all services ready")
    call = actions.add_parser("connectivity", help="can one pod call another")
    call.add_argument("--from-pod", required=True, metavar="NAMESPACE/POD")
    call.add_argument("--to-pod", required=True, metavar="NAMESPACE/POD")
    for action in (plane, call):
        action.add_argument("-o", "--output", choices=["text", "json"], default="text")
        add_target(action)
    options = parser.parse_args(argv)
    checks = asyncio.run(_checks(options))
    fine = all(check.fine for check in checks)
    if options.output == "json":
        shown = [{"what": one.what, "fine": one.fine, "found": one.found} for one in checks]
        output.json({"fine": fine, "checks": shown})
        return 0 if fine else 1
    for one in checks:
        output.line(f"{'ok ' if one.fine else 'BAD'}  {one.what}: {one.found}")
    output.line("all is well" if fine else f"{sum(not one.fine for one in checks)} of {len(checks)} checks failed")
    return 0 if fine else 1


async def _checks(options: argparse.Namespace) -> list[Check]:
    from cli.cluster import connectivity, health
    from cli.cluster.target import session

    async with session(options) as api:
        if options.action == "connectivity":
            return await connectivity.verify(
                api,
                caller=options.from_pod,
                called=options.to_pod,
                mesh_name=options.mesh_name,
                mesh_namespace=options.mesh_namespace,
            )
        return await health.control_plane(api, options.mesh_namespace, options.mesh_name)
