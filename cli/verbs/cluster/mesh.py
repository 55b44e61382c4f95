"""`meshlog mesh list|upgrade`: lists or upgrades the meshes of a cluster."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from typing import Any

from cli.terminal import output
from cli.terminal.deadline import Deadline, add_timeout, run


def main(argv: Sequence[str]) -> int:
    """List the meshes of a cluster; `mesh upgrade` is `meshlog upgrade` under the name of `osm`."""
    if argv and argv[0] == "upgrade":
        from cli.verbs.cluster import upgrade

        return upgrade.main(argv[1:])
    from cli.cluster.target import add_target

    parser = argparse.ArgumentParser(prog="meshlog mesh", description="Show the meshes of a cluster.")
    actions = parser.add_subparsers(dest="action", required=True)
    listing = actions.add_parser("list", help="every mesh, its version and its namespaces")
    listing.add_argument("-o", "--output", choices=["table", "json"], default="table")
    add_timeout(listing, 30.0)
    add_target(listing)
    actions.add_parser("upgrade", help="as `meshlog upgrade`", add_help=False)
    options = parser.parse_args(argv)

    async def work(_: Deadline) -> int:
        found = await _list(options)
        if options.output == "json":
            output.json(found)
            return 0
        output.table(
            ("MESH NAME", "MESH NAMESPACE", "VERSION", "ADDED NAMESPACES"),
            [(one["name"], one["namespace"], one["version"], ",".join(one["namespaces"]) or "-") for one in found],
        )
        return 0

    return run(work, options.timeout, of="the Kubernetes API")


async def _list(options: argparse.Namespace) -> list[dict[str, Any]]:
    from cli.cluster import installation
    from cli.cluster.target import session

    async with session(options) as api:
        return await installation.meshes(api)
