"""`meshlog mesh list|upgrade`: the meshes of a cluster."""

from __future__ import annotations

import argparse
import asyncio
from collections.abc import Sequence
from typing import Any

from cli import output


def main(argv: Sequence[str]) -> int:
    """List the meshes of a cluster; `mesh upgrade` is `meshlog upgrade` by the name that `osm` users know."""
    if argv and argv[0] == "upgrade":
        from cli.verbs import upgrade

        return upgrade.main(argv[1:])
    from cli.cluster.target import add_target

    parser = argparse.ArgumentParser(prog="meshlog mesh", description="Show the meshes of a cluster.")
    actions = parser.add_subparsers(dest="action", required=True)
    listing = actions.add_parser("list", help="every mesh, its version and its namespaces")
    listing.add_argument("-o", "--output", choices=["table", "json"], default="table")
    add_target(listing)
    actions.add_parser("upgrade", help="as `meshlog upgrade`", add_help=False)
    options = parser.parse_args(argv)
    found = asyncio.run(_list(options))
    if options.output == "json":
        output.json(found)
        return 0
    output.table(
        ("MESH NAME", "MESH NAMESPACE", "VERSION", "ADDED NAMESPACES"),
        [(one["name"], one["namespace"], one["version"], ",".join(one["namespaces"]) or "-") for one in found],
    )
    return 0


async def _list(options: argparse.Namespace) -> list[dict[str, Any]]:
    from cli.cluster import installation
    from cli.cluster.target import session

    async with session(options) as api:
        return await installation.meshes(api)
