"""`meshlog namespace add|remove|ignore|list`: changes or lists which namespaces are members."""

from __future__ import annotations

import argparse
from collections.abc import Sequence

from cli.terminal import output
from cli.terminal.deadline import Deadline, add_timeout, run

_EPILOG = """\
examples:
  meshlog namespace add bookstore bookbuyer      members; pods that are created from now on get a sidecar
  meshlog namespace list
  meshlog namespace remove bookstore
"""


def main(argv: Sequence[str]) -> int:
    """Label and annotate namespaces as `osm namespace` does. Returns the exit code."""
    from cli.cluster.target import add_target

    parser = argparse.ArgumentParser(
        prog="meshlog namespace",
        description="Say which namespaces are members of the mesh.",
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    actions = parser.add_subparsers(dest="action", required=True)
    for name, text, count in (
        ("add", "make namespaces members", "+"),
        ("remove", "let a namespace leave", 1),
        ("ignore", "keep namespaces out for good", "+"),
    ):
        action = actions.add_parser(name, help=text, description=text)
        action.add_argument("names", nargs=count, metavar="NAMESPACE")
        if name == "add":
            action.add_argument("--disable-sidecar-injection", action="store_true", help="member, but no sidecars")
        add_timeout(action, 30.0)
        add_target(action)
    listing = actions.add_parser("list", help="show the members", description="Show member namespaces.")
    listing.add_argument("-o", "--output", choices=["table", "json"], default="table")
    listing.add_argument("--all-meshes", action="store_true", help="members of every mesh")
    add_timeout(listing, 30.0)
    add_target(listing)
    options = parser.parse_args(argv)

    async def work(_: Deadline) -> int:
        await _run(options)
        return 0

    undone = "known" if options.action == "list" else "done, but for what is said above,"
    return run(work, options.timeout, of="the Kubernetes API", undone=undone)


async def _run(options: argparse.Namespace) -> None:
    from cli.cluster import namespace_membership
    from cli.cluster.target import session

    async with session(options) as api:
        if options.action == "list":
            found = await namespace_membership.members(api, "" if options.all_meshes else options.mesh_name)
            _show(found, options.output)
            return
        for name in options.names:
            if options.action == "add":
                injection = not options.disable_sidecar_injection
                await namespace_membership.add(api, name, options.mesh_name, injection=injection)
                output.line(f"namespace {name} is a member of {options.mesh_name}")
            elif options.action == "remove":
                await namespace_membership.remove(api, name, options.mesh_name)
                output.line(f"namespace {name} has left {options.mesh_name}")
            else:
                await namespace_membership.ignore(api, name)
                output.line(f"namespace {name} is ignored")


def _show(found: list[dict[str, str]], form: str) -> None:
    if form == "json":
        output.json(found)
        return
    output.table(
        ("NAMESPACE", "MESH", "SIDECAR-INJECTION", "IGNORED"),
        [(one["namespace"], one["mesh"], one["injection"], one["ignored"]) for one in found],
    )
