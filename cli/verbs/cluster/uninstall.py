"""`meshlog uninstall mesh`: removes the control plane from a cluster."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence

from cli.terminal import output
from cli.terminal.deadline import Deadline, add_timeout, run


def main(argv: Sequence[str]) -> int:
    """Remove the control plane and its metadata on namespaces. Returns 0, or 1 if the user declines."""
    from cli.cluster.target import add_target

    parser = argparse.ArgumentParser(
        prog="meshlog uninstall",
        description="Remove a mesh. Sidecars go when their pods are restarted; until then they keep what they have.",
    )
    parser.add_argument("what", choices=["mesh"], help="the control plane and the membership of its namespaces")
    parser.add_argument("-f", "--force", action="store_true", help="do not ask")
    parser.add_argument(
        "-a",
        "--delete-cluster-wide-resources",
        action="store_true",
        help="also the resource definitions, with every policy in them, and the CA's keys",
    )
    parser.add_argument("--delete-namespace", action="store_true", help="also the control plane's namespace")
    add_timeout(parser, 300.0)
    add_target(parser)
    options = parser.parse_args(argv)
    if not options.force and not _agreed(options):
        output.line("nothing was changed")
        return 1

    async def work(_: Deadline) -> int:
        await _uninstall(options)
        output.line(
            f"The mesh {options.mesh_name} is gone. Restart the pods of its namespaces to take their sidecars away."
        )
        return 0

    return run(work, options.timeout, of="the Kubernetes API", undone="uninstalled, but for what is said above,")


def _agreed(options: argparse.Namespace) -> bool:
    what = "and every policy and the CA's keys " if options.delete_cluster_wide_resources else ""
    output.ask(f"Delete the mesh {options.mesh_name!r} {what}from {options.mesh_namespace}? [y/N]")
    return sys.stdin.readline().strip().lower() in {"y", "yes"}


async def _uninstall(options: argparse.Namespace) -> None:
    from cli.cluster import installation
    from cli.cluster.target import session

    async with session(options) as api:
        await installation.uninstall(
            api,
            options.mesh_name,
            namespace=options.mesh_namespace,
            everything=options.delete_cluster_wide_resources,
            delete_namespace=options.delete_namespace,
            progress=output.note,
        )
